# Generated from _async/work/commit.py by tools/unasync.py: edit that one, then run `make sync`.
"""How a transaction over shards commits: on the one that has written, or in two phases on those that have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import psycopg

from ..._runtime.deadlines import Deadline
from ..._wire.opening import command
from ..._wire.participant import Command
from ..._wire.statement import Statement
from ...control import transactions
from ...control.transactions import TransactionId
from .checkout import Checkout, is_lost
from .members import Members
from .outcomes import explain, overdue
from .two_phase import TwoPhase, new_id, obstacle

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

FAILED = (
    "a statement of this transaction has failed, so that it was rolled back; let the error end the block, or use "
    "savepoint() for a statement that may fail"
)
# Row locks count as writing: they hold until the decision.
_HAS_WRITTEN = Statement(b"select pg_catalog.pg_current_xact_id_if_assigned() is not null", None)


class Commit:
    """The end of one transaction; `id` is that of its two phases, once they have begun.

    `known_writers` are the shards on which statements have written; `home` is the one that had better decide.
    """

    def __init__(
        self, fleet: Fleet, members: Members, known_writers: Sequence[str], home: str | None, until: Deadline
    ) -> None:
        self.id: TransactionId | None = None
        self._fleet = fleet
        self._members = members
        self._checkouts = members.checkouts
        self._known_writers = known_writers
        self._home = home
        self._until = until

    def run(self, deadline: Deadline) -> None:
        """All or nothing; raises as `TwoPhase.commit` does, and what the one shard that has written says."""
        writers = self._who_has_written(deadline)
        if len(writers) > 1:
            self._commit_as_one(writers, deadline)
        elif self._checkouts:
            if len(self._checkouts) == 1:
                self._commit_alone(next(iter(self._checkouts.values())), deadline)
            else:
                self._commit_one(writers, deadline)
            self._fleet.recovery.counts.add("one_shard")

    def _who_has_written(self, deadline: Deadline) -> list[str]:
        silent = [name for name in self._checkouts if name not in self._known_writers]
        if not silent or len(self._checkouts) == 1:
            return [*(self._known_writers or self._checkouts)]
        requests = self._members.run(dict.fromkeys(silent, _HAS_WRITTEN), deadline)
        return [*self._known_writers, *(each.shard for each in requests if each.pgresult.get_value(0, 0) == b"t")]

    def _commit_as_one(self, writers: Sequence[str], deadline: Deadline) -> None:
        check_atomic(self._checkouts, writers)
        home = self._home if self._home in writers else writers[0]
        assert home is not None
        self.id = new_id(self._fleet.topology.fleet, home)
        readers = [name for name in self._checkouts if name not in writers]
        TwoPhase(self.id, self._members.joined(), self._fleet.recovery, readers=readers).commit(deadline)

    def _commit_alone(self, checkout: Checkout, deadline: Deadline) -> None:
        """By psycopg, which waits for one connection in fewer steps."""
        conn = checkout.conn
        checkout.watch_until(deadline)
        try:
            answer = conn.wait(command(conn, transactions.COMMIT))
        except psycopg.Error as error:
            cut, lost = checkout.is_cut, is_lost(conn)
            explained = explain(error, checkout.pool, cut=cut, lost=lost, phase="commit", may_be_applied=True)
            if cut or lost:
                self._fleet.recovery.counts.add("unknown")
            raise explained or error from error
        finally:
            checkout.watch_until(self._until)
        if answer != b"COMMIT":
            raise psycopg.errors.InFailedSqlTransaction(FAILED)

    def _commit_one(self, writers: Sequence[str], deadline: Deadline) -> None:
        """The shard that has written decides; what others say of their COMMIT changes nothing."""
        requests = []
        for name, checkout in self._checkouts.items():
            late = overdue(name, checkout.pool)
            requests.append(Command(name, checkout.conn, Statement(transactions.COMMIT, None), late))
        self._members.drive(requests, deadline)
        for request in requests:
            if request.error is None and request.pgresult.command_status != b"COMMIT":
                request.error = psycopg.errors.InFailedSqlTransaction(FAILED)
        deciding = [request for request in requests if request.shard in writers]
        failures = self._members.joined().failures(deciding, may_be_applied=True)
        if failures:
            raise next(iter(failures.values()))


def check_atomic(checkouts: Mapping[str, Checkout], names: Sequence[str]) -> None:
    """Raise `UnsupportedQuery` unless these shards, which have joined, can commit as one."""
    refusal = obstacle({name: checkouts[name].pool for name in names}) if len(names) > 1 else None
    if refusal is not None:
        raise refusal
