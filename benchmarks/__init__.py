"""Benchmarks: shardpool against what one would write without it, side by side on the same servers.

    python -m benchmarks                      every subject, about five minutes
    python -m benchmarks query scatter        two of them
    python -m benchmarks --quick              few rounds, under a minute: does it still work, roughly how fast

What counts is the ratio of ours to the baseline of the same run; times of different machines, or of one machine at
different hours, are not comparable.
"""
