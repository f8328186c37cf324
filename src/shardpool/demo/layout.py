"""Where the rows of the demo go: the keyspaces part of its topology file."""

from __future__ import annotations

from collections.abc import Sequence

from ..local.topology_file import BUCKETS, owners
from .data import NO_TAIL

_QUARTERS = ("2013-04-01", "2013-07-01", "2013-10-01")

_LAYOUT = """\
keyspaces:
  # A plane and its flights are on one shard, so that they are joined there.
  tails:
    key: text
    hash:
      buckets: {buckets}
      owners: {owners}
    # Flights without a tail number have a bucket of their own, which can be moved by itself.
    pinned: {{"{no_tail}": {pinned}}}
    tables: {{planes: tailnum, flights: tailnum}}
  # A quarter of the year is on one shard, so that a query for a period asks only the shards that hold it.
  weather_days:
    key: date
    range:
{ranges}
    tables: {{weather: day}}

reference_tables: [airlines, airports]
single_tables: {{load_log: {single}}}
"""


def layout(shards: Sequence[str]) -> str:
    """The YAML of keyspaces, reference and single tables for these shards: even by hash, a quarter after another."""
    homes = [shards[quarter % len(shards)] for quarter in range(len(_QUARTERS) + 1)]
    ranges = [f"      - {{below: {day}, shard: {shard}}}" for day, shard in zip(_QUARTERS, homes, strict=False)]
    ranges.append(f"      - {{shard: {homes[-1]}}}")
    return _LAYOUT.format(
        buckets=BUCKETS,
        owners=owners(shards),
        no_tail=NO_TAIL,
        pinned=shards[-1],
        ranges="\n".join(ranges),
        single=shards[0],
    )
