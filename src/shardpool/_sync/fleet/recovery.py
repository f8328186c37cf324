# Generated from _async/fleet/recovery.py by tools/unasync.py: edit that one, then run `make sync`.
"""Ends what was left prepared by transactions over several shards whose router is gone, or has lost a connection.

No store of its own: each transaction's home tells what has become of it. Routers do it in turn, in the background, and
at once for a transaction of their own. Connections are none of the pools', which callers may fill that wait for
exactly these transactions.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from ..._endpoint.refusals import Retired
from ..._runtime.counts import Counts
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.periodic import Background
from ..._runtime.tasks import run_all
from ...control import transactions
from ...control.transactions import InDoubt, TransactionId, Transactions, TransactionState
from ...errors import RoutingError, ShardError, first_line
from .servers import Servers, connected

_log = logging.getLogger("shardpool")

Conn = Connection[Any]

# Seconds between two checks of one router, between half and one and a half times that; before the first one; and before
# the next one at what could not be ended yet.
_PERIOD = 60.0
_FIRST = 10.0
_AGAIN = 1.0
# Seconds that one look may take, and that a server has to let us in.
_CHECK_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
# Seconds that close() waits for a check that is under way.
_STOP_SECONDS = 2.0
# How transactions end.
_COUNTED = ("one_shard", "several_shards", "rolled_back", "unknown", "deadlock")
# For how long a router goes on with what it has lost itself, in seconds; then it is for the checks of all.
_OWN_SECONDS = 600.0


class Recovery:
    """Looks after the transactions over several shards of a fleet."""

    def __init__(self, fleet: Servers) -> None:
        self._fleet = fleet
        self._own: dict[TransactionId, tuple[Mapping[str, str], float]] = {}
        self.counts = Counts(_COUNTED)
        self._next = 0.0
        self._background = Background("shardpool-recovery", _FIRST, self._step)

    # -- in the background ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self._next = monotonic() + _jittered(_FIRST)
        self._background.start()

    def start_afresh(self) -> None:
        """In a forked child, to which the parent's transactions do not belong."""
        self._own = {}
        self.counts = Counts(_COUNTED)
        self._background.start_afresh()

    def stop(self, timeout: float) -> None:
        self._background.stop(min(timeout, _STOP_SECONDS))

    def stats(self) -> dict[str, int]:
        """JSON-ready; see docs/reference/stats.md."""
        return {**self.counts.as_dict(), "unfinished": len(self._own)}

    def take_up(self, of: TransactionId, parts: Mapping[str, str]) -> None:
        """End a transaction of this router at once, whose parts by shard these are; from any thread, or the loop."""
        self._own[of] = parts, monotonic() + _OWN_SECONDS
        self._background.wake()

    def _step(self) -> None:
        try:
            self._checked()
        except (ShardError, psycopg.Error, Retired) as error:
            # Lost in the midst of it: the next look comes.
            _log.info("what was left prepared could not be looked after: %s", first_line(error))
        self._background.period = _AGAIN if self._own else max(_AGAIN, self._next - monotonic())

    def _checked(self) -> None:
        until = deadline_after(_CHECK_SECONDS)
        for of, (parts, given_up_at) in [*self._own.items()]:
            if self._settle(of, parts, until) or monotonic() > given_up_at:
                self._own.pop(of, None)
        if monotonic() >= self._next and self._has_connected():
            self._next = monotonic() + _jittered(_PERIOD)
            self._check(until)

    def _has_connected(self) -> bool:
        """Whether this router has used any server yet: one that has not makes no connections in the background."""
        return any(shard.primary.takes_part == transactions.READY for shard in self._fleet.snapshot.shards.values())

    def _settle(self, of: TransactionId, parts: Mapping[str, str], until: Deadline) -> bool:
        """End one transaction; False when it goes on, or a shard cannot be asked now."""
        with connected(self._fleet, {of.home, *parts}, until, _CONNECT_SECONDS) as (conns, missing):
            if missing:
                return False
            state = _state(conns[of.home], of)
            return _end(parts, state, conns) == []

    def _check(self, until: Deadline) -> None:
        """End what was left behind by anybody, unless another router is at it."""
        first = next(iter(self._fleet.topology.shards))
        with connected(self._fleet, [first], until, _CONNECT_SECONDS) as (conns, missing):
            if missing:
                return
            # Held by a transaction, so that it is gone with it behind a pooler, too.
            conns[first].execute("begin")
            if (_rows(conns[first], transactions.TURN_QUERY))[0][0]:
                self.recover(until)

    # -- by hand -------------------------------------------------------------------------------------------------

    def listed(self, until: Deadline) -> Transactions:
        """What is prepared anywhere, the oldest first."""
        with connected(self._fleet, self._fleet.topology.shards, until, _CONNECT_SECONDS) as (conns, missing):
            return Transactions(self._found(conns, missing), missing)

    def recover(self, until: Deadline, only: str | None = None) -> Transactions:
        """End what is decided, or the one of that id, and drop old records; gives all that was found before."""
        with connected(self._fleet, self._fleet.topology.shards, until, _CONNECT_SECONDS) as (conns, missing):
            old = {} if missing or only else self._old_records(conns)
            in_doubt = self._found(conns, missing)
            prepared = {one.id for one in in_doubt}
            outcomes = [self._ended(one, conns) if only in (None, one.id) else one for one in in_doubt]
            for name, ids in old.items():
                useless = [one for one in ids if one not in prepared]
                if useless:
                    conns[name].execute(transactions.FORGET_QUERY, (useless,), prepare=False)
        return Transactions(outcomes, missing)

    def _old_records(self, conns: Mapping[str, Conn]) -> dict[str, list[str]]:
        pools = self._fleet.snapshot.shards
        return {
            name: [one for (one,) in _rows(conn, transactions.OLD_QUERY, (transactions.KEPT_FOR,))]
            for name, conn in conns.items()
            if pools[name].primary.takes_part == transactions.READY
        }

    def _found(self, conns: Mapping[str, Conn], missing: Mapping[str, Exception]) -> list[InDoubt]:
        names = list(conns)
        prefix = transactions.prefix_of(self._fleet.topology.fleet)
        asked = run_all([partial(_rows, conns[name], transactions.PREPARED_QUERY, (prefix,)) for name in names])
        parts: dict[str, dict[str, str]] = {}
        ages: dict[str, timedelta] = {}
        barred: dict[str, str] = {}
        for name, (rows, error) in zip(names, asked, strict=True):
            if error is not None:
                raise error
            for part, age, owner, may_end in rows or ():
                whole = part.rpartition(":")[0]
                parts.setdefault(whole, {})[name] = part
                ages[whole] = max(age, ages.get(whole, age))
                if not may_end:
                    barred[whole] = f"role {owner} has prepared it on shard {name}, and only that role may end it"
        in_doubt = [
            self._judged(InDoubt(whole, "", named, ages[whole], None, barred.get(whole)), conns, missing)
            for whole, named in parts.items()
        ]
        return sorted(in_doubt, key=lambda one: -one.age)

    def _judged(self, one: InDoubt, conns: Mapping[str, Conn], missing: Mapping[str, Exception]) -> InDoubt:
        """With its home, and what that says."""
        try:
            of = TransactionId.parse(one.id)
        except RoutingError as error:
            return replace(one, problem=error.message)
        home = of.home
        if home not in conns:
            why = f"cannot be reached: {first_line(missing[home])}" if home in missing else "is not in the topology"
            return replace(one, home=home, problem=f"its home, shard {home}, {why}")
        try:
            return replace(one, home=home, state=_state(conns[home], of))
        except psycopg.Error as error:
            return replace(one, home=home, problem=f"its home, shard {home}, does not tell: {first_line(error)}")

    def _ended(self, one: InDoubt, conns: Mapping[str, Conn]) -> InDoubt:
        if one.state is None or one.state == "running" or one.problem is not None:
            return one
        problems = _end(one.parts, one.state, conns)
        return replace(one, problem="; ".join(problems) or None, ended=not problems)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)


def _rows(conn: Conn, query: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(query, params, prepare=False)
    return cursor.fetchall()


def _state(conn: Conn, of: TransactionId) -> TransactionState:
    """What the home says of a transaction of which some part was left prepared: no record is dropped before that."""
    ((state, _),) = _rows(conn, transactions.STATE_QUERY, (str(of),))
    outcome: TransactionState = state
    return outcome


def _end(parts: Mapping[str, str], state: TransactionState, conns: Mapping[str, Conn]) -> list[str]:
    """Commit or roll back the prepared parts, by shard; gives what did not succeed."""
    problems = []
    for name, part in parts.items():
        statement = transactions.end(part, state)
        if statement is None:
            problems.append("it goes on")
            continue
        try:
            conns[name].execute(statement, prepare=False)
        except psycopg.errors.UndefinedObject:
            continue  # somebody else was faster
        except psycopg.Error as error:
            problems.append(f"shard {name}: {first_line(error)}")
    return problems
