"""Whether the sessions of several shards read and write values alike. Pure: what sessions have told goes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedQuery
from . import settings

# Two shards, and a setting that they do not have alike, with the value of each.
Unlike = tuple[str, str, str, str | None, str | None]


class AlikeSettings:
    """Compares the settings of sessions, and remembers what new connections, too, did not have alike."""

    def __init__(self) -> None:
        self._told: set[Unlike] = set()

    def check(self, settings_by_shard: Mapping[str, Any], planned: Mapping[str, str | None], source: str) -> bool:
        """Raise `UnsupportedQuery` unless sessions of these shards read and write alike, and as plans were made.

        `planned` are the settings with which `source`, a shard, has told of its tables; empty when none has.
        False when they do not for the first time: with new connections they may.
        """
        unlike = _unlike(settings_by_shard, planned, source)
        if unlike is None:
            self._told.clear()
            return True
        if unlike in self._told:
            one, other, setting, here, there = unlike
            raise UnsupportedQuery(
                f"shards {one} and {other} are not alike: setting {setting} ({here} and {there})",
                hint="Make them alike by ALTER DATABASE or ALTER ROLE … SET, or by options in the topology; "
                "a statement for one shard is answered meanwhile.",
            )
        self._told.add(unlike)
        return False


def _unlike(settings_by_shard: Mapping[str, Any], planned: Mapping[str, str | None], source: str) -> Unlike | None:
    """Two shards, and the first setting in which their sessions differ, or that plans were made with otherwise."""
    first, ours = next(iter(settings_by_shard.items()))
    for name, theirs in settings_by_shard.items():
        if theirs is not ours and (difference := settings.difference(ours, theirs)) is not None:
            return first, name, *difference
    differing = settings.reading_difference(ours, planned) if planned else None
    return (first, source, *differing) if differing is not None else None
