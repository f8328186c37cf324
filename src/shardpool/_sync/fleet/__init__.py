# Generated from _async/fleet/__init__.py by tools/unasync.py: edit that one, then run `make sync`.
"""The fleet as it runs: its pools, their health, and the topology in force; it knows no SQL of callers."""
