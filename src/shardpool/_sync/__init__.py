# Generated from _async/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""The shell: all I/O of the router. The sync twin in `_sync` is generated from here by `tools/unasync.py`."""
