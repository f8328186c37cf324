# Generated from _async/work/session.py by tools/unasync.py: edit that one, then run `make sync`.
"""One transaction over the shards that it comes to: joined one by one, ended together.

A shard joins with its first statement. As long as one shard has written, the transaction is that shard's own, and costs
what that costs; when several have, they commit in two phases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from ..._endpoint.session import SESSION, hold_transaction
from ..._runtime.deadlines import NEVER, Deadline, deadline_after
from ..._wire.opening import Opening
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...control import transactions
from ...control.lookups import KEEP
from ...control.transactions import TransactionId
from ...errors import RouterMisuse, UnsupportedQuery
from ...topology import Topology
from .cancellation import give_up
from .checkout import Checkout
from .commit import FAILED, Commit, check_atomic
from .handle import ShardHandle
from .joined import Joined
from .members import Members, is_busy, is_open, is_unusable
from .participants import Moved, Participants, has_moved
from .transaction import SIDE_BY_SIDE
from .waiting import Waiting

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

Isolation = Literal["read committed", "repeatable read", "serializable"]

# What undoing may take when the deadline has passed, and otherwise.
_LAST_SECONDS = 0.05
_ROLLBACK_SECONDS = 1.0
_HELD = "shardpool_rows"
_PLAIN_BEGIN = [b"begin"]
_INTRANS = TransactionStatus.INTRANS


class Session:
    """The shards that a transaction has joined, and what it is to them all."""

    def __init__(self, fleet: Fleet, *, until: Deadline | None, isolation: Isolation | None, readonly: bool) -> None:
        self._fleet = fleet
        # When the whole of it must have ended, in monotonic seconds.
        self.until = NEVER if until is None else until
        self._readonly = readonly
        self.isolation = isolation
        # One that is undone and begun again when it meets others: whether it waits for no lock for long while it holds
        # others, and whether its writes on several shards come one after another.
        self.gives_way = False
        self.goes_in_turn = False
        # The shard on which rows are brought together: it has used temporary tables, and cannot be prepared.
        self.middle: str | None = None
        self.id: TransactionId | None = None
        self._members = Members(fleet)
        self._checkouts = self._members.checkouts
        self.waiting = Waiting(fleet, self._checkouts)
        self._writers: dict[str, None] = {}
        self._savepoints: list[str] = []
        self._numbered = 0
        # What reads or writes rows over some time.
        self._going_on = ""
        # A shard that has been joined, and has not been told to begin.
        self.unbegun: str | None = None
        self.is_over = False
        self.changes_schema = False
        # Whether the shards collect what changes in columns that are unique over the fleet, and whether that may have
        # happened on a connection that the caller has.
        self.keeps = False
        self.has_lent = False

    # -- shards --------------------------------------------------------------------------------------------------

    def deadline(self, timeout: float | None) -> Deadline:
        """When a statement that begins now must have ended, in monotonic seconds."""
        deadline = self._fleet.deadline(timeout)
        return deadline if deadline < self.until else self.until

    def join(self, names: Sequence[str], deadline: Deadline, topology: Topology | None = None) -> Joined:
        """These shards, in the transaction; raises `Moved` when keys are not where `topology` says."""
        self.check_usable()
        if topology is not None and has_moved(self._fleet.topology, topology):
            raise Moved
        new = [name for name in names if name not in self._checkouts]
        self._check_serializable(new)
        if len(new) == 1:
            handle = ShardHandle(self._fleet, new[0])
            self._checkouts[new[0]] = Checkout.take(self._fleet, handle, deadline)
        elif new:
            taken = Participants.take(self._fleet, new, deadline, readonly=False, topology=topology)
            self._checkouts.update(taken.checkouts)
        if new:
            self._begin(new, deadline)
        joined = Joined(self._fleet, {name: self._checkouts[name] for name in names}, self.waiting)
        joined.in_turn = self.goes_in_turn
        if topology is not None and len(names) > 1:
            joined.check_alike(topology)
        return joined

    def join_one(self, name: str, deadline: Deadline, topology: Topology | None = None) -> Checkout:
        """One shard; when it is `unbegun` the transaction begins there by `opening`, or by `begin`."""
        if topology is not None and has_moved(self._fleet.topology, topology):
            raise Moved
        checkout = self._checkouts.get(name)
        if checkout is None:
            self._check_serializable([name])
            checkout = Checkout.take(self._fleet, ShardHandle(self._fleet, name), deadline)
            self._checkouts[name] = checkout
            self.unbegun = name
            checkout.begin()
            self.waiting.watched(checkout, self.until)
        return checkout

    def opening(self, name: str) -> Opening:
        """What sends BEGIN on an `unbegun` shard, together with its first statement."""
        return Opening(self._checkouts[name].conn, self._beginning(name), self._has_begun)

    def begin(self, name: str, deadline: Deadline) -> None:
        """BEGIN on an `unbegun` shard, by itself."""
        self._has_begun()
        self._members.tell({name: b"; ".join(self._beginning(name))}, deadline)

    def _has_begun(self) -> None:
        assert self.unbegun is not None
        hold_transaction(self._checkouts[self.unbegun].conn, held=True)
        self.unbegun = None

    def leave(self, name: str) -> None:
        """An `unbegun` shard has not been joined after all."""
        self.unbegun = None
        self._checkouts.pop(name).end()

    def keep(self, deadline: Deadline) -> None:
        """Have all shards collect, from now on, what changes in columns that are unique over the fleet."""
        if not self.keeps:
            self.keeps = True
            self._members.tell(dict.fromkeys(self._checkouts, KEEP), deadline)

    def _beginning(self, name: str) -> list[bytes]:
        if self.gives_way and len(self._checkouts) > 1:
            return [*_PLAIN_BEGIN, *SIDE_BY_SIDE]
        if self.isolation is None and not self._readonly and not self._savepoints:
            return [*_PLAIN_BEGIN, KEEP] if self.keeps else _PLAIN_BEGIN
        mode = f" isolation level {self.isolation}" if self.isolation else ""
        mode += " read only" if self._readonly and name != self.middle else ""
        kept = [KEEP] if self.keeps else []
        return [f"begin{mode}".encode(), *kept, *(f"savepoint {given}".encode() for given in self._savepoints)]

    def _begin(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:
            checkout = self._checkouts[name]
            checkout.begin()
            self.waiting.watched(checkout, self.until)
        try:
            self._members.tell({name: b"; ".join(self._beginning(name)) for name in names}, deadline)
        except BaseException:
            self._members.has_failed = True
            raise
        for name in names:
            hold_transaction(self._checkouts[name].conn, held=True)

    def _check_serializable(self, new: Sequence[str]) -> None:
        if self.isolation == "serializable" and len({*self._checkouts, *new}) > 1:
            raise UnsupportedQuery(
                "a serializable transaction is of one shard",
                detail=f"This one is on {', '.join(self._checkouts) or new[0]}, and would come to {new[-1]}: no server "
                "sees what the transactions on the others do.",
                hint='Use isolation="repeatable read", and lock the rows that must not change (SELECT … FOR UPDATE).',
            )

    def lend(self, name: str, deadline: Deadline) -> Connection[Any]:
        """The connection of a shard, for the caller's own statements."""
        if self._fleet.topology.lookups and not self._readonly:
            self.has_lent = True
            self.keep(deadline)
        joined = self.join([name], deadline)
        conn = joined.conn(name)
        conn.__dict__[SESSION].lend(conn)
        return conn

    @property
    def names(self) -> list[str]:
        return list(self._checkouts)

    def check_atomic(self, names: Sequence[str]) -> None:
        """Raise `UnsupportedQuery` unless these shards, which have joined, can commit as one."""
        check_atomic(self._checkouts, names)

    def will_write(self, names: Iterable[str]) -> None:
        """Note that a statement writes on these shards, which have joined.

        Raises `UnsupportedQuery` when they cannot commit as one with those that have written before.
        """
        writers = {**self._writers, **dict.fromkeys(names)}
        if len(writers) == len(self._writers):
            return
        self.check_atomic(list(writers))
        self._writers = writers

    @property
    def writers(self) -> list[str]:
        """The shards on which statements have written, but for those of the caller's own."""
        return list(self._writers)

    def told(self, texts: Mapping[str, bytes], deadline: Deadline) -> list[Request]:
        """Statements of shardpool's own on shards that have joined, with their answers; what fails ends all."""
        return self._members.run({name: Statement(text, None) for name, text in texts.items()}, deadline)

    def choose_middle(self, names: Sequence[str], of_single_table: str | None) -> str:
        """The shard to which rows are brought, from now on always the same; one that is joined after others writes."""
        if self.middle is None:
            writers = [name for name in self._writers if name in names]
            joined = [name for name in names if name in self._checkouts]
            free = [name for name in names if name not in self._checkouts]
            if self._readonly and (not free or of_single_table in joined):
                raise UnsupportedQuery(
                    "rows cannot be brought together in a transaction that only reads, on a shard that it has come to",
                    hint="Let this be its first statement, or leave out readonly=True.",
                )
            self.middle = of_single_table or next(iter(free if self._readonly else [*writers, *joined, *names]))
        elif of_single_table not in (None, self.middle):
            raise UnsupportedQuery(
                f"a table of the statement is on shard {of_single_table} alone",
                detail=f"This transaction has brought rows together on shard {self.middle}, and can do so on one only.",
                hint="Run the statement in a transaction of its own.",
            )
        return self.middle

    def is_open(self, name: str) -> bool:
        return is_open(self._checkouts[name].conn)

    # -- state ---------------------------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raise unless a statement may come now."""
        self.check_not_over()
        if self._going_on:
            raise RouterMisuse(
                f"{self._going_on} of this transaction is going on",
                hint="A transaction does one thing at a time: read the rows to the end, or close the iterator, first.",
            )
        if self.is_failed:
            raise psycopg.errors.InFailedSqlTransaction(FAILED)

    def check_not_over(self) -> None:
        """Raise once it has ended: its connections are others' then."""
        if self.is_over:
            raise RouterMisuse("this transaction has ended", hint="Begin another one: router.transaction().")

    @property
    def is_failed(self) -> bool:
        """Whether some shard, or the transaction as a whole, can only be rolled back."""
        if self._members.has_failed:
            return True
        return any(checkout.conn.pgconn.transaction_status != _INTRANS for checkout in self._checkouts.values())

    def fail(self) -> None:
        """What a statement has done is on some shards only."""
        self._members.has_failed = True

    # -- savepoints ----------------------------------------------------------------------------------------------

    def savepoint(self) -> str:
        self.check_usable()
        self._numbered += 1
        name = f"shardpool_{self._numbered}"
        self._members.tell(dict.fromkeys(self._checkouts, f"savepoint {name}".encode()), self.deadline(None))
        self._savepoints.append(name)
        return name

    def release(self, name: str) -> None:
        self._forget(name)
        text = f"release savepoint {name}".encode()
        self._members.tell(dict.fromkeys(self._checkouts, text), self.deadline(None))

    def roll_back_to(self, name: str) -> None:
        """Undo what came after the savepoint, and drop it; a shard that is lost keeps the transaction failed."""
        self._forget(name)
        text = f"rollback to savepoint {name}; release savepoint {name}".encode()
        if self.keeps:
            text = b"; ".join((text, KEEP))
        usable = [each for each, checkout in self._checkouts.items() if not is_unusable(checkout.conn)]
        self._members.tell(dict.fromkeys(usable, text), self.deadline(None))
        self._members.has_failed = False

    def _forget(self, name: str) -> None:
        del self._savepoints[self._savepoints.index(name) :]

    # -- rows that come or go over some time ---------------------------------------------------------------------

    def hold(self, names: Sequence[str], what: str, deadline: Deadline) -> None:
        """On these shards, which have joined, `what` goes on from now: nothing else is done until `let_go`."""
        self._members.tell(dict.fromkeys(names, f"savepoint {_HELD}".encode()), deadline)
        self._going_on = what

    def let_go(self, names: Sequence[str], *, undone: bool) -> None:
        """It is over. What still runs is cancelled; `undone` when what has been done has to be, or was cancelled."""
        self._going_on = ""
        if self.is_over:
            return
        until = self.deadline(None)
        give_up([self._checkouts[name].conn for name in names], until, patiently=True)
        usable = [name for name in names if not is_unusable(self._checkouts[name].conn)]
        text = f"rollback to savepoint {_HELD}; " if undone else ""
        self._members.tell(dict.fromkeys(usable, f"{text}release savepoint {_HELD}".encode()), until)

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Nothing else is done meanwhile; with an error the transaction has failed."""
        self._going_on = what
        try:
            yield
        except BaseException:
            self.fail()
            raise
        finally:
            self._going_on = ""

    # -- the end -------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """All or nothing; raises as `TwoPhase.commit` does, and what the one shard that has written says."""
        self.check_usable()
        deadline = self.deadline(None)
        commit = Commit(self._fleet, self._members, [*self._writers], self.middle, self.until)
        try:
            commit.run(deadline)
        finally:
            self.id = commit.id

    def end(self) -> None:
        """Give all connections back; what is open on them is rolled back."""
        self.is_over = self.waiting.is_over = True
        still = [name for name, checkout in self._checkouts.items() if is_open(checkout.conn)]
        try:
            if still:
                self._fleet.recovery.counts.add("rolled_back")
                until = max(deadline_after(_LAST_SECONDS), min(self.until, deadline_after(_ROLLBACK_SECONDS)))
                self._members.drive([self._members.command(name, transactions.ROLLBACK) for name in still], until)
        finally:
            for checkout in self._checkouts.values():
                hold_transaction(checkout.conn, held=False)
                if is_busy(checkout.conn):
                    checkout.conn.close()
                checkout.end()
