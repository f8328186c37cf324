"""Rows of several shards put together without a server."""
