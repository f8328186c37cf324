"""The shell: all I/O of the router. The sync twin in `_sync` is generated from here by `tools/unasync.py`."""
