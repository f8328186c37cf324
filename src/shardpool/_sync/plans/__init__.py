# Generated from _async/plans/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""What the shards tell of their tables, and the plans that are made of it."""
