"""What the running fleet tells those who know its tables, and asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Schema(Protocol):
    """Who knows the tables of the shards."""

    def changed(self) -> None:
        """Tables, functions or settings of a shard are not what they were."""

    def may_write(self, query: Any) -> bool:
        """Whether a statement may write; no I/O."""

    def check_settings(self, settings_by_shard: Mapping[str, Any]) -> bool:
        """Raise `UnsupportedQuery` unless sessions of these shards read and write alike; False to try with new ones."""

    def start_afresh(self) -> None:
        """This is a forked child: what was being asked is not any more."""

    def stop(self) -> None:
        """The fleet is closed: nobody is answered any more."""


class NoSchema:
    """Where nobody knows the shards' tables: any statement may write, and all sessions are taken as alike."""

    def changed(self) -> None:
        pass

    def may_write(self, query: Any) -> bool:
        return True

    def check_settings(self, settings_by_shard: Mapping[str, Any]) -> bool:
        return True

    def start_afresh(self) -> None:
        pass

    def stop(self) -> None:
        pass
