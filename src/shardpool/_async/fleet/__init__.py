"""The fleet as it runs: its pools, their health, and the topology in force; it knows no SQL of callers."""
