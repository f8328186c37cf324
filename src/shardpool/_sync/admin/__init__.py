# Generated from _async/admin/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""What is asked of and done to the fleet itself."""
