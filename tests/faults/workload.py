"""Callers that write and read for keys of all shards, and the ledger of what they were told.

A write has an id of its own. It was acknowledged, refused (`applied` is "no", or it is psycopg's own error, which says
as much), or left unknown; afterwards the ledger is compared with what is on the servers.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from statistics import quantiles
from time import monotonic
from types import TracebackType
from typing import Any, Literal

import psycopg

from shardpool import ShardError, ShardpoolError

from .calls import Calls

Outcome = Literal["acknowledged", "refused", "unknown", "surprise"]

INSERT = "insert into ledger values (%s, %s)"
READ = "select %s::bigint, tenant_id, id from ledger where tenant_id = %s order by id desc limit 5"
# Verbs whose time limit is that of the whole block.
_BLOCKS = ("connection", "transaction")
WRITES = ("execute", "run", "connection", "transaction", "query")
_END_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when it was due (monotonic seconds), how long after that it ended, and what came of it."""

    shard: str
    verb: str
    due: float
    seconds: float
    outcome: Outcome
    error: BaseException | None = None
    is_read: bool = False

    @property
    def is_well(self) -> bool:
        return self.outcome == "acknowledged"


@dataclass
class Ledger:
    """What callers were told of their writes, as (key, id); lists, whose append is atomic."""

    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    unknown: list[tuple[int, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def violations(self, rows: Mapping[str, Counter[tuple[int, int]]], owners: Mapping[int, str]) -> list[str]:
        """What is on the servers against what was told; rows of other keys are somebody else's."""
        found = list(self.wrong)
        for name, least, most in (("acknowledged", 1, 1), ("refused", 0, 0), ("unknown", 0, 1)):
            for row in getattr(self, name):
                home = owners[row[0]]
                count = rows[home][row]
                if not least <= count <= most:
                    found.append(f"{name} {row} is {count} times on {home}")
        told = {*self.acknowledged, *self.refused, *self.unknown}
        for shard, counts in rows.items():
            found += [f"{row} is on {shard}" for row in counts if owners.get(row[0], shard) != shard]
            found += [f"{row} on {shard} was never told" for row in counts if row[0] in owners and row not in told]
        return found


class Workload:
    """Callers from `with` on until its end. `rate` is calls a second of all together; without one they pause `think`.

    With a rate the callers share one queue of calls that are due: when they are stuck, calls begin late, which counts.
    """

    def __init__(
        self,
        calls: Calls,
        keys_by_shard: Mapping[str, Sequence[int]],
        *,
        callers: int = 8,
        think: float = 0.004,
        rate: float | None = None,
        timeout: float = 1.0,
        writes: float = 0.5,
        seed: int = 1,
    ) -> None:
        self.ledger = Ledger()
        self.calls: list[Call] = []
        self.timeout = timeout
        self._calls = calls
        self._owners = {key: shard for shard, keys in keys_by_shard.items() for key in keys}
        # Of each shard in turn.
        self._keys = [key for keys in zip(*keys_by_shard.values(), strict=True) for key in keys]
        self._ids = itertools.count(1)
        self._turns = itertools.count()
        self._callers = callers
        self._think = think
        self._rate = rate
        self._writes = writes
        self._random = random.Random(seed)
        self._ended = False
        self._running: list[Future[None]] = []

    def __enter__(self) -> Workload:
        self._begun = monotonic()
        self._running = [self._calls.spawn(self._caller(number)) for number in range(self._callers)]
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        _, left = wait(self._running, _END_SECONDS)
        if left and exc is None:
            raise AssertionError(f"{len(left)} of {self._callers} callers never came back")
        for caller in self._running:
            if exc is None:
                caller.result()

    def violations(self, rows: Mapping[str, Counter[tuple[int, int]]]) -> list[str]:
        return self.ledger.violations(rows, self._owners)

    # -- what came of it -----------------------------------------------------------------------------------------

    def between(self, begin: float, end: float, shards: Sequence[str] | None = None) -> list[Call]:
        """The calls that were due in a window, of all shards or some."""
        return [c for c in self.calls if begin <= c.due < end and (shards is None or c.shard in shards)]

    def late(self) -> list[Call]:
        """Calls that did not end by their deadline and 100 ms."""
        return [call for call in self.calls if call.seconds > self.timeout + 0.1]

    def account(self) -> str:
        """Outcomes by verb, and the kinds of errors, for the message of a test that fails."""
        errors = Counter(f"{call.verb} {type(call.error).__name__}" for call in self.calls if call.error is not None)
        return f"{Counter(call.outcome for call in self.calls)} {dict(errors.most_common(12))}"

    # -- callers -------------------------------------------------------------------------------------------------

    async def _caller(self, number: int) -> None:
        rng = random.Random(f"{self._random.random()} {number}")
        while not self._ended:
            due, key = await self._next(rng)
            if rng.random() < self._writes:
                await self._write(rng.choice(WRITES), key, due)
            else:
                await self._read(rng.choice(("execute", "query")), key, next(self._ids), due)

    async def _next(self, rng: random.Random) -> tuple[float, int]:
        """When the next call of this caller is due, which is now or was before, and its key."""
        if self._rate is None:
            await self._calls.pause(self._think * rng.uniform(0.5, 1.5))
            return monotonic(), rng.choice(self._keys)
        turn = next(self._turns)
        due = self._begun + turn / self._rate
        left = due - monotonic()
        if left > 0:
            await self._calls.pause(left)
        return due, self._keys[turn % len(self._keys)]

    async def _write(self, verb: str, key: int, due: float) -> None:
        row = key, next(self._ids)
        call: Any = getattr(self._calls, verb)
        limit = {"block_timeout" if verb in _BLOCKS else "timeout": self.timeout}
        try:
            if verb == "query":
                await call(INSERT, row, **limit)
            else:
                await call(key, INSERT, row, **limit)
        except Exception as error:
            outcome = _outcome(error)
            self._note(verb, key, due, outcome, error)
            if outcome == "surprise":
                self.ledger.wrong.append(f"{verb}: {error!r}")
            (self.ledger.refused if outcome == "refused" else self.ledger.unknown).append(row)
        else:
            self._note(verb, key, due, "acknowledged", None)
            self.ledger.acknowledged.append(row)

    async def _read(self, verb: str, key: int, nonce: int, due: float) -> None:
        try:
            if verb == "query":
                rows = await self._calls.query(READ, (nonce, key), timeout=self.timeout)
            else:
                rows = await self._calls.execute(key, READ, (nonce, key), timeout=self.timeout)
        except Exception as error:
            outcome = _outcome(error)
            if outcome == "surprise":
                self.ledger.wrong.append(f"{verb}: {error!r}")
            self._note(verb, key, due, outcome, error, is_read=True)
        else:
            self._note(verb, key, due, "acknowledged", None, is_read=True)
            for row in rows:
                if row[:2] != (nonce, key):
                    self.ledger.wrong.append(f"the read {nonce} of key {key} on {self._owners[key]} gave {row}")

    def _note(
        self,
        verb: str,
        key: int,
        due: float,
        outcome: Outcome,
        error: BaseException | None,
        is_read: bool = False,
    ) -> None:
        self.calls.append(Call(self._owners[key], verb, due, monotonic() - due, outcome, error, is_read))


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, ShardError):
        return "refused" if error.applied == "no" else "unknown"
    # psycopg's own errors mean that a shard has refused.
    return "refused" if isinstance(error, psycopg.Error) and not isinstance(error, ShardpoolError) else "surprise"


def percentile(seconds: Sequence[float], percent: int) -> float:
    """0 when there are fewer than two values."""
    return quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else 0.0
