# Generated from _async/sql/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""The ways to answer SQL without a key: one file for each."""
