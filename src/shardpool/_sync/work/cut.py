# Generated from _async/work/cut.py by tools/unasync.py: edit that one, then run `make sync`.
"""The transaction of a snapshot: on all shards from the beginning, between two decisions of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._endpoint.session import hold_transaction
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import sleep
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...control import transactions
from ...control.transactions import TransactionId
from .members import is_unusable
from .participants import Participants
from .session import Session

# For how long nothing is decided at most, while a snapshot waits for what is; and between two checks of that.
_CLOSED_SECONDS = 2.0
_PAUSE = 0.001
# What opening the gate may take.
_ROLLBACK_SECONDS = 1.0


class Cut(Session):
    """A session whose shards have snapshots in between which nothing over several of them has been decided."""

    def open_together(self, deadline: Deadline) -> None:
        """All shards, in snapshots in between which no transaction over several of them has been decided."""
        self._take_all(deadline)
        names = list(self._checkouts)
        try:
            # Of those who do the same, the first shard lets in one: they cannot wait for each other on others.
            self._members.tell({names[0]: transactions.CLOSE_GATE}, deadline)
            if names[1:]:
                self._members.tell(dict.fromkeys(names[1:], transactions.CLOSE_GATE), deadline)
            self._wait_for_decided(min(deadline, deadline_after(_CLOSED_SECONDS)))
            self._members.tell(dict.fromkeys(names, transactions.BEHIND_GATE), deadline)
        finally:
            self._open_gate()
        for checkout in self._checkouts.values():
            hold_transaction(checkout.conn, held=True)

    def _take_all(self, deadline: Deadline) -> None:
        names = list(self._fleet.topology.shards)
        taken = Participants.take(self._fleet, names, deadline, readonly=False)
        self._checkouts.update(taken.checkouts)
        for checkout in self._checkouts.values():
            self.waiting.watched(checkout, self.until)

    def _wait_for_decided(self, until: Deadline) -> None:
        """Return when what is decided is finished on all shards; what is not decided by now waits for us."""
        prepared = Statement(transactions.prepared(self._fleet.topology.fleet), None)
        while True:
            listed = self._members.run(dict.fromkeys(self._checkouts, prepared), until)
            if not self._decided(parts_by_whole(_listed(listed)), until):
                return
            sleep(_PAUSE)

    def _decided(self, parts: Mapping[str, Mapping[str, str]], until: Deadline) -> list[str]:
        """Of the transactions with prepared parts those that are decided, as far as the shards' snapshots tell."""
        by_home: dict[str, list[str]] = {}
        for whole in parts:
            by_home.setdefault(TransactionId.parse(whole).home, []).append(whole)
        asked = {home: Statement(transactions.recorded(ids), None) for home, ids in by_home.items()}
        decided = _listed(self._members.run(asked, until)) if asked else {}
        wholes = [whole for ids in decided.values() for whole in ids]
        for whole in wholes:
            # Its router may be gone; if it is not, nothing is left to do.
            self._fleet.recovery.take_up(TransactionId.parse(whole), parts[whole])
        return wholes

    def _open_gate(self) -> None:
        held = [name for name, checkout in self._checkouts.items() if not is_unusable(checkout.conn)]
        requests = [self._members.command(name, transactions.OPEN_GATE) for name in held]
        self._members.drive(requests, deadline_after(_ROLLBACK_SECONDS))
        for request in requests:
            if request.error is not None:
                # With its session the lock is gone, too.
                request.conn.close()


def parts_by_whole(prepared: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Of each transaction the names of its parts, by shard; `prepared` are all parts of a shard."""
    parts: dict[str, dict[str, str]] = {}
    for shard, names in prepared.items():
        for part in names:
            parts.setdefault(part.rpartition(":")[0], {})[shard] = part
    return parts


def _listed(requests: Sequence[Request]) -> dict[str, list[str]]:
    """The first column of what each shard has answered."""
    return {
        request.shard: [request.pgresult.get_value(row, 0).decode() for row in range(request.pgresult.ntuples)]
        for request in requests
    }
