"""Who works by which epoch of the topology, as the shards see it. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..control import guard
from ..control.publication import PUBLISHED_EPOCH
from ..errors import EditRefused, ScatterError, summary
from ..topology import Topology
from .barrier import Straggler, router_roles
from .connections import Conn, connected, one, open_link, rows

_EPOCHS = """
    select (to_jsonb(meta)->>'epoch')::bigint, coalesce((to_jsonb(meta)->>'min_epoch')::bigint, 0) from shardpool.meta
"""


@dataclass(frozen=True, slots=True)
class ShardEpochs:
    """What one endpoint tells: `epoch` of the shard's topology, `published` the one that routers can take over from it
    (0: none), `least` that of sessions that it lets in. `sees_all`: whether hosts of others' sessions can be seen."""

    shard: str
    epoch: int
    published: int
    least: int
    sees_all: bool
    sessions: tuple[Straggler, ...]

    @property
    def sessions_by_epoch(self) -> Mapping[int | None, int]:
        """How many sessions of routers work by which epoch; None is by none."""
        return Counter(session.epoch for session in self.sessions)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        sessions = [session.as_dict() for session in self.sessions]
        data = {"shard": self.shard, "epoch": self.epoch, "published": self.published, "min_epoch": self.least}
        return {**data, "sees_all": self.sees_all, "sessions": sessions}


async def epochs(
    topology: Topology, roles: Sequence[str] = (), timeout: float = 30.0
) -> tuple[list[ShardEpochs], dict[str, str]]:
    """What every endpoint tells, and why which tell nothing; `roles` are those of routers that the topology lacks.

    `timeout` is in seconds, for all primaries. Raises `ScatterError` when no shard tells anything.
    """
    if topology.control == "none":
        raise EditRefused("control: none: the shards carry no shardpool schema, and do not know who works by what")
    wanted = router_roles(topology, roles)
    by_shard: list[ShardEpochs] = []
    async with connected(dict.fromkeys(topology.shards, topology), timeout, some=True) as conns:
        epochs_by_shard, failed = await conns.answers(conns.names, lambda name, conn: _epochs_of(name, conn, wanted))
        failures: dict[str, BaseException] = {**conns.missing, **failed}
    if not epochs_by_shard:
        raise ScatterError("no shard tells who works by which epoch", failures=failures)
    for shard in topology.shards.values():
        if shard.name in epochs_by_shard:
            by_shard.append(epochs_by_shard[shard.name])
        for endpoint in shard.endpoints:
            if endpoint.role != "replica":
                continue
            name = f"{shard.name} ({endpoint.name})"
            try:
                async with open_link(topology, shard.name, endpoint) as conn:
                    by_shard.append(await _epochs_of(name, conn, wanted))
            except Exception as error:
                failures[name] = error
    return by_shard, {name: summary(error) for name, error in failures.items()}


async def _epochs_of(name: str, conn: Conn, roles: Sequence[str]) -> ShardEpochs:
    epoch, least = (await rows(conn, _EPOCHS))[0]
    published = await one(conn, PUBLISHED_EPOCH)
    sees_all = bool(await one(conn, guard.SEES_SESSIONS))
    sessions = [Straggler(name, *row) for row in await rows(conn, guard.ROUTER_SESSIONS, {"roles": list(roles)})]
    return ShardEpochs(name, epoch, published, least, sees_all, tuple(sessions))
