"""What a caller may choose of a statement, by name. It is imported with a router, before anything that knows SQL."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import check_choice

Fanout = Literal["one", "some", "all"]
Strategy = Literal["combine", "pull"]
# How the shards of a snapshot are seen beside each other.
SnapshotCut = Literal["atomic", "strict"]

# All that may be done with a statement.
STRATEGIES = ("one", "concatenate", "merge", "add", "combine", "pull", "write", "split", "make", "rekey")


def check_options(fanout: Fanout | None, strategy: Strategy | None) -> None:
    """Raise `ValueError` for one that there is not."""
    check_choice("fanout", fanout, (None, *get_args(Fanout)))
    check_choice("strategy", strategy, (None, *get_args(Strategy)))
