"""What is asked for as a move, and what each of its states changes in the topology file. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..edits import give
from ..errors import MoveRefused
from ..keys import canonical_key
from ..partitioning.hash_file import runs, written_range
from ..patches import Insert, Operation, Put, Remove
from ..topology import Keyspace, MoveState, RunningMove, Topology, qualified


class NumberTaken(MoveRefused):
    """Another move was begun at the same time, and has got the number."""


def move_of_buckets(topology: Topology, keyspace: Keyspace, buckets: Iterable[int], target: str) -> RunningMove:
    """A move of these buckets, without a number unless it runs already.

    Raises `MoveRefused` where it is not one that can be made.
    """
    topology.shard(target)
    wanted = sorted(set(buckets))
    for running in keyspace.moves:
        if running.target == target and [*running.bucket_numbers] == wanted:
            return running
    if not wanted:
        raise MoveRefused("no bucket was named that could move")
    count = keyspace.partitioning.bucket_count
    if wanted[0] < 0 or wanted[-1] >= count:
        raise MoveRefused(f"keyspace {keyspace.name} has the buckets 0 to {count - 1}")
    owners: dict[str, list[int]] = {}
    for bucket in wanted:
        owners.setdefault(keyspace.shard_by_bucket[bucket], []).append(bucket)
    if len(owners) > 1:
        listed = "; ".join(f"{shard}: {_ranges(mine)}" for shard, mine in owners.items())
        raise MoveRefused(
            f"the buckets belong to {len(owners)} shards",
            detail=listed,
            hint="A move has one source: make one for each.",
        )
    (source,) = owners
    move = RunningMove(0, source, target, "copying", keyspace=keyspace.name, buckets=tuple(runs(wanted)))
    check(topology, move)
    written(keyspace, move)
    return move


def move_of_table(topology: Topology, table: str, target: str) -> RunningMove:
    """A move of a single table, without a number unless it runs already.

    Raises `MoveRefused`, `UnknownTable`, `UnknownShard`.
    """
    topology.shard(target)
    topology.placement(table)
    name = qualified(table)
    for running in topology.table_moves:
        if (running.table, running.target) == (name, target):
            return running
    if name not in topology.single_tables:
        raise MoveRefused(
            f"table {table} is not on one shard alone", hint="Of a sharded table buckets move: shardpool move KEYSPACE"
        )
    move = RunningMove(0, topology.single_tables[name], target, "copying", table=name)
    check(topology, move)
    return move


def check(topology: Topology, move: RunningMove) -> None:
    """Raise `MoveRefused` unless the move can run beside those that run."""
    if move.source == move.target:
        raise MoveRefused(f"{move.what} is on shard {move.target} already")
    for other in topology.moves.values():
        if other.number == move.number:
            continue
        overlap = set(other.bucket_numbers) & set(move.bucket_numbers) if other.keyspace == move.keyspace else set()
        if overlap or (move.table is not None and other.table == move.table):
            raise MoveRefused(f"{other} moves some of that already", hint=_after(other))
        # Each would be sent what the other moves, and apply it twice.
        if other.keyspace == move.keyspace and {other.source, other.target} == {move.source, move.target}:
            raise MoveRefused(f"{other} runs between the same two shards", hint=_after(other))


def can_be_made_beside(move: RunningMove, other: RunningMove) -> bool:
    """Whether neither waits for the other's copy: a slot is made only when those who write on its server have ended."""
    return move.target not in (other.source, other.target) and other.target != move.source


def _after(other: RunningMove) -> str:
    return f"Finish it first: shardpool move finish {other.number}"


def begun(data: Any, topology: Topology, move: RunningMove, planned_by: Topology) -> list[Operation]:
    """The move, as one topology had it, stands in the file."""
    move = carried(move, planned_by, topology)
    running = topology.moves.get(move.number)
    if running is not None and (running.what, running.target) != (move.what, move.target):
        raise NumberTaken(f"there is a move {move.number} already")
    if running is not None:
        return []
    check(topology, move)
    entry: dict[str, Any] = {"number": move.number}
    if move.table is not None:
        entry["table"] = move.table.removeprefix("public.")
    else:
        assert move.keyspace is not None
        keyspace = topology.keyspaces[move.keyspace]
        entry |= {"keyspace": move.keyspace, **written(keyspace, move)}
    entry |= {"from": move.source, "to": move.target, "state": move.state}
    there = data.get("moves")
    return [Insert(("moves",), len(there), entry)] if there else [Put(("moves",), [entry])]


def in_state(data: Any, topology: Topology, number: int, state: MoveState) -> list[Operation]:
    """The move is in another state; `moved`: its target owns what it moves."""
    move = topology.moves[number]
    if move.state == state:
        return []
    operations: list[Operation] = [Put(("moves", _place(data, number), "state"), state)]
    owner = replace(move, state=state).owner
    return operations + (_given(data, topology, move, owner) if owner != move.owner else [])


def taken_back(data: Any, topology: Topology, number: int, source: str) -> list[Operation]:
    """The move goes the other way, from `source`, which owns what it moves: handed over once more."""
    move = topology.moves[number]
    if move.source == source:
        return []
    at = ("moves", _place(data, number))
    return [Put((*at, "from"), move.target), Put((*at, "to"), move.source), Put((*at, "state"), "guarded")]


def ended(data: Any, topology: Topology, number: int) -> list[Operation]:
    """The move is out of the file."""
    if number not in topology.moves:
        return []
    if len(data["moves"]) == 1:
        return [Remove(("moves",))]
    return [Remove(("moves", _place(data, number)))]


def _place(data: Any, number: int) -> int:
    return next(at for at, entry in enumerate(data["moves"]) if int(entry["number"]) == number)


def _given(data: Any, topology: Topology, move: RunningMove, owner: str) -> list[Operation]:
    if move.table is not None:
        written_as = next(table for table in data["single_tables"] if qualified(str(table)) == move.table)
        return [Put(("single_tables", written_as), owner)]
    assert move.keyspace is not None
    return give(data, topology.keyspaces[move.keyspace], move.owner, owner, move.bucket_numbers)


def written(keyspace: Keyspace, move: RunningMove) -> Mapping[str, Any]:
    """The buckets of a move as the file has them; raises `MoveRefused` for what one entry cannot say."""
    buckets = [*move.bucket_numbers]
    written_parts = keyspace.partitioning.written_move(buckets, move.buckets)
    if written_parts is not None:
        return written_parts
    raise MoveRefused(
        f"the buckets {_ranges(buckets)} of keyspace {keyspace.name} do not move together",
        hint="Hash buckets, pinned keys, the default, and ranges that are no neighbours are moves of their own.",
    )


def carried(move: RunningMove, old: Topology, new: Topology) -> RunningMove:
    """A move that was planned by one topology, by another one: its buckets may have other numbers by now."""
    if move.keyspace is None:
        return move
    was, now = old.keyspaces[move.keyspace], new.keyspaces[move.keyspace]
    bucket_now = [was.partitioning.bucket_in(now.partitioning, bucket) for bucket in move.bucket_numbers]
    same = [bucket for bucket in bucket_now if bucket is not None]
    if len(same) < len(bucket_now):
        raise MoveRefused(f"keyspace {move.keyspace} was divided in another way meanwhile", hint="Run it again.")
    return replace(move, buckets=tuple(runs(sorted(same))))


def bucket_of_key(keyspace: Keyspace, key: object) -> int | None:
    """The bucket that a key has to itself; None where it shares one, and is to be pinned or listed first."""
    value = canonical_key(key, keyspace.key_types)
    if keyspace.partitioning.is_ordered:
        raise MoveRefused(
            f"keyspace {keyspace.name} is placed by range: its keys have no bucket of their own",
            hint="Divide the range, and move a part: shardpool split",
        )
    return keyspace.partitioning.bucket_by_own_key.get(value)


def _ranges(buckets: Sequence[int]) -> str:
    return ", ".join(str(written_range(*entry)) for entry in runs(buckets))
