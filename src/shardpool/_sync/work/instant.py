# Generated from _async/work/instant.py by tools/unasync.py: edit that one, then run `make sync`.
"""The transaction of a strict snapshot: all shards as they were at one instant.

Snapshots are opened on all shards, and looked at once more from connections beside them: where no shard has ended a
transaction in between, all of them are as the fleet was at any moment between the last that was opened and the first
look. That holds up nobody, and comes to an end where not too much is written. Else the tables are locked against
writers on all shards, for the time of opening the snapshots. See docs/adr/0056-an-instant-of-the-fleet.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection

from ..._endpoint.session import hold_transaction
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import sleep
from ..._wire.participant import Command
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...control import transactions
from ...errors import DeadlineExceeded, ScatterError, ShardError, first_line
from ...quoting import quote_literal, quote_table
from ...topology import Single
from ..fleet.servers import connected
from .cut import Cut, parts_by_whole
from .members import is_unusable
from .outcomes import overdue, several
from .participants import Participants

_CONNECT_SECONDS = 5.0
# Who holds a connection of a pool and wants another one may not wait for those who do the same.
_IDLE_SECONDS = 0.05
# Looks before writers are held up, and seconds in which they may come.
_LOOKS, _LOOKING_SECONDS = 20, 0.2
# What letting go of the tables may take.
_ROLLBACK_SECONDS = 1.0
# How long a lock on the tables is waited for, while writers wait behind that; and seconds before it is tried again.
_LOCK_TIMEOUT = "50ms"
_SOONEST, _LATEST = 0.02, 0.1
_SNAPSHOT = b"begin isolation level repeatable read; select pg_catalog.pg_current_snapshot()"
_AGAIN = b"rollback; " + _SNAPSHOT
# The one is asked for before the other: what ends between the two is seen by the second.
_LOOK = (
    "select pg_catalog.set_config('shardpool.prepared',"
    " coalesce((select pg_catalog.string_agg(p.gid, pg_catalog.chr(10)) from ({prepared}) as p), ''), true);"
    " select pg_catalog.pg_current_snapshot(), pg_catalog.current_setting('shardpool.prepared')"
)


class Instant(Cut):
    """A session whose shards have the snapshots of one instant."""

    def open_together(self, deadline: Deadline) -> None:
        """All shards, in snapshots between which nothing was committed on any. Raises `DeadlineExceeded`."""
        self._take_all(deadline)
        with self._others(deadline) as beside:
            self._open_at_once(beside, deadline)
        for checkout in self._checkouts.values():
            hold_transaction(checkout.conn, held=True)

    @contextmanager
    def _others(self, deadline: Deadline) -> Iterator[dict[str, Connection[Any]]]:
        """Another connection to each shard: idle ones of the pools, for which nobody is waited, or new ones of none."""
        names = list(self._checkouts)
        if all(checkout.pool.is_warm for checkout in self._checkouts.values()):
            idle = None
            with suppress(ShardError, ScatterError):
                until = min(deadline, deadline_after(_IDLE_SECONDS))
                idle = Participants.take(self._fleet, names, until, readonly=False)
            if idle is not None:
                try:
                    yield idle.conns
                finally:
                    idle.close_busy()
                    idle.end()
                return
        with connected(self._fleet, names, deadline, _CONNECT_SECONDS) as (found, missing):
            if missing:
                raise several(dict(missing), len(names))
            yield found

    def _open_at_once(self, beside: Mapping[str, Connection[Any]], deadline: Deadline) -> None:
        looks, until = 0, min(deadline, deadline_after(_LOOKING_SECONDS))
        problem: BaseException | None = None
        try:
            while monotonic() < deadline:
                if self._stood_still(beside, _AGAIN if looks else _SNAPSHOT, deadline):
                    return
                looks += 1
                is_due = looks >= _LOOKS or monotonic() >= until
                if is_due and not isinstance(problem, psycopg.errors.InsufficientPrivilege):
                    problem = self._fenced(beside, deadline)
                    if problem is None:
                        return
                    sleep(min(random.uniform(_SOONEST, _LATEST), max(0.0, deadline - monotonic())))
        except (DeadlineExceeded, ScatterError):
            if monotonic() < deadline:
                raise
        raise _overdue(next(iter(beside)), problem)

    def _stood_still(self, beside: Mapping[str, Connection[Any]], begin: bytes, deadline: Deadline) -> bool:
        """Whether nothing has ended on any shard since the snapshots were opened, nor was half ended then."""
        opened = _values(self._members.run(dict.fromkeys(beside, Statement(begin, None)), deadline))
        look = _LOOK.format(prepared=transactions.prepared(self._fleet.topology.fleet).decode()).encode()
        looked = self._beside(beside, dict.fromkeys(beside, look), deadline)
        for request in looked:
            if request.error is not None:
                raise several(self._members.joined().failures(looked, may_be_applied=False), len(beside))
        seen = _values(looked)
        prepared = {name: values[1].split("\n") if values[1] else [] for name, values in seen.items()}
        parts = parts_by_whole(prepared)
        # Asked for in the snapshots: what was decided by then is half there.
        decided = self._decided(parts, deadline)
        return not decided and all(opened[name][0] == seen[name][0] for name in opened)

    def _fenced(self, beside: Mapping[str, Connection[Any]], deadline: Deadline) -> BaseException | None:
        """Open the snapshots while nobody may write the tables; what kept it from that, None if nothing did."""
        begun = self._beside(beside, {name: self._lock(name) for name in beside}, deadline)
        try:
            problem = next((request.error for request in begun if request.error is not None), None)
            if problem is None:
                self._members.run(dict.fromkeys(beside, Statement(_AGAIN, None)), deadline)
            elif not isinstance(problem, psycopg.Error) or problem.sqlstate is None:
                raise several(self._members.joined().failures(begun, may_be_applied=False), len(beside))
            return problem
        finally:
            held = [name for name, conn in beside.items() if not is_unusable(conn)]
            self._beside(beside, dict.fromkeys(held, b"rollback"), deadline_after(_ROLLBACK_SECONDS))

    def _lock(self, name: str) -> bytes:
        """What locks the fleet's tables on a shard against writers, those that there are."""
        placements = self._fleet.topology.placements
        here = [table for table, place in placements.items() if not isinstance(place, Single) or place.shard == name]
        listed = ", ".join(quote_literal(quote_table(table)) for table in sorted(here))
        return (
            f"begin; set local lock_timeout = '{_LOCK_TIMEOUT}'; do $shardpool$ declare t pg_catalog.text; begin"
            f" foreach t in array array[{listed}]::pg_catalog.text[] loop"
            " if pg_catalog.to_regclass(t) is not null then"
            " execute 'lock table ' operator(pg_catalog.||) t operator(pg_catalog.||) ' in share mode';"
            " end if; end loop; end $shardpool$"
        ).encode()

    def _beside(
        self, conns: Mapping[str, Connection[Any]], texts: Mapping[str, bytes], deadline: Deadline
    ) -> list[Request]:
        """Texts on connections beside the session's own; each request keeps its error."""
        requests: list[Request] = [
            Command(name, conns[name], Statement(text, None), overdue(name, self._checkouts[name].pool, reads=True))
            for name, text in texts.items()
        ]
        self._members.drive(requests, deadline)
        return requests


def _values(requests: Sequence[Request]) -> dict[str, list[str]]:
    """The only row that each shard has answered."""
    found = {}
    for request in requests:
        result = request.pgresult
        found[request.shard] = [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]
    return found


def _overdue(shard: str, problem: BaseException | None) -> DeadlineExceeded:
    return DeadlineExceeded(
        "no instant was found at which all shards stood still, until the deadline",
        shard=shard,
        phase="wait",
        detail=None if problem is None else f"The tables could not be locked: {first_line(problem)}",
        hint='Give it more time, end what writes for long; or take cut="atomic", which waits for commits only.',
    )
