# Generated from _async/bulk/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""Many rows or many items at once."""
