"""The command line. Each command is imported when it is called, so that `--help` and completion are quick."""

from __future__ import annotations

from .app import App, main, shardpool

__all__ = ["App", "main", "shardpool"]
