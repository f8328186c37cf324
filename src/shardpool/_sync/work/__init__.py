# Generated from _async/work/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""Units of work: where each one begins and ends."""
