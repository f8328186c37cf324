"""The ways to answer SQL without a key: one file for each."""
