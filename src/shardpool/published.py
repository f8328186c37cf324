"""The topology that the shards have published, and what a router makes of it together with its own file. Pure.

It says who owns what, what is on its way, and where shards are. Roles, passwords, certificates and pools are the
router's own: they never travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .topology import Endpoint, Shard, Topology

# What of an endpoint's parameters says where it is.
_WHERE = frozenset({"dbname", "host", "hostaddr", "port", "target_session_attrs"})


@dataclass(frozen=True, slots=True)
class Edition:
    """A topology that was published on a shard: its epoch, the digest of its text, and since when its shards are where
    it says, by name (0: not known)."""

    epoch: int
    digest: str
    since: Mapping[str, int]


def agreed(editions_by_shard: Mapping[str, Sequence[Edition]], known: Topology) -> Iterator[Edition]:
    """The editions that come after a topology and that shards agree on, the newest first.

    An edition holds when all of its shards that have answered have it, and at least half of those that can be asked
    have answered. An edit is begun on every shard before it is published on one, so no two can both hold.
    """
    edition_by_shard = {
        (edition.epoch, edition.digest): edition
        for editions in editions_by_shard.values()
        for edition in editions
        if edition.epoch > known.epoch
    }
    for place in sorted(edition_by_shard, reverse=True):
        theirs = [editions for editions in editions_by_shard.values() if place in map(_place, editions)]
        asked = [name for name in edition_by_shard[place].since if name in known.shards]
        answered = [name for name in asked if name in editions_by_shard]
        if not answered or 2 * len(answered) < len(asked):
            continue
        if all(place in map(_place, editions_by_shard[name]) for name in answered):
            since = {
                name: max(_since(editions, place, name) for editions in theirs)
                for name in edition_by_shard[place].since
            }
            yield Edition(*place, since)


def _place(edition: Edition) -> tuple[int, str]:
    return edition.epoch, edition.digest


def _since(editions: Sequence[Edition], place: tuple[int, str], shard: str) -> int:
    return next(edition.since.get(shard, 0) for edition in editions if _place(edition) == place)


@dataclass(frozen=True, slots=True)
class Published:
    """A topology that the shards agree on, without what is a router's own; `since` as in `Edition`."""

    topology: Topology
    since: Mapping[str, int]

    @property
    def epoch(self) -> int:
        return self.topology.epoch

    def applied_to(self, own: Topology) -> Topology:
        """The router's own topology, which is older, with what has changed since.

        A shard that it knows, and that has not gone elsewhere since its epoch, stays at the address that it has for it.
        One that it does not know is reached with what its own endpoints have in common.
        """
        theirs = self.topology
        shards = {
            name: own.shards[name]
            if name in own.shards and self.since.get(name, 0) <= own.epoch
            else _reached(shard, own.shards.get(name), own)
            for name, shard in theirs.shards.items()
        }
        return replace(
            own,
            epoch=theirs.epoch,
            shards=shards,
            keyspaces=theirs.keyspaces,
            reference_tables=theirs.reference_tables,
            single_tables=theirs.single_tables,
            table_moves=theirs.table_moves,
        )


def _reached(shard: Shard, before: Shard | None, own: Topology) -> Shard:
    """The shard with what the router needs to connect: as its own of that name, or at that address, or as all have."""
    ends = [one.primary for one in own.shards.values()]
    same = [end for end in ends if _place_of(end) == _place_of(shard.primary)]
    like = before.primary if before is not None else same[0] if same else _common(ends)
    return replace(
        shard,
        primary=_dressed(shard.primary, like),
        replicas=tuple(_dressed(replica, like) for replica in shard.replicas),
    )


def _place_of(endpoint: Endpoint) -> frozenset[tuple[str, str]]:
    return frozenset(param for param in endpoint.params if param[0] in _WHERE)


def _dressed(endpoint: Endpoint, like: Endpoint) -> Endpoint:
    """The endpoint with role, password, certificates and pool of another one."""
    own = {key: value for key, value in like.params if key not in _WHERE}
    where = {key: value for key, value in endpoint.params if key in _WHERE}
    params = tuple(sorted({**own, **where}.items()))
    return replace(endpoint, params=params, password=like.password, password_file=like.password_file, pool=like.pool)


def _common(endpoints: Sequence[Endpoint]) -> Endpoint:
    """What all of these endpoints have in common; of pools the first one's."""
    first = endpoints[0]
    same = set(first.params).intersection(*(end.params for end in endpoints))
    passwords = {(end.password, end.password_file) for end in endpoints}
    password, password_file = passwords.pop() if len(passwords) == 1 else (None, None)
    return replace(first, params=tuple(sorted(same)), password=password, password_file=password_file)
