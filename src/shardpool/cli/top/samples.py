"""Samples of every endpoint, taken by a thread for each, and the rows that they make."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..._sync.admin.samples import Sample, sample

if TYPE_CHECKING:
    from ... import Router

# How many looks the quantiles of the ping and the places of the WAL go back.
_KEPT = 120
# What a thread may take beyond its timeout before its endpoint is shown as silent all the same.
_GRACE = 0.5


@dataclass(frozen=True, slots=True)
class EndpointSample:
    """One endpoint at one moment. Times in seconds; None is not known."""

    shard: str
    endpoint: str
    address: str
    state: str
    role: str
    connections: int | None = None
    max_connections: int | None = None
    active: int | None = None
    waiting: int | None = None
    tps: float | None = None
    lag: float | None = None
    ping_p50: float | None = None
    ping_p99: float | None = None
    error: str | None = None


class Watched:
    """One endpoint with what was seen of it last."""

    def __init__(self, shard: str, endpoint: Any) -> None:
        self.shard = shard
        self.endpoint = endpoint
        self.samples: deque[Sample] = deque(maxlen=_KEPT)
        self.begun: float | None = None
        self.rounds = 0

    @property
    def is_primary(self) -> bool:
        """By what it says itself, else by the topology."""
        last = self.last
        role = last.role if last is not None and last.role is not None else self.endpoint.role
        return bool(role == "primary")

    @property
    def last(self) -> Sample | None:
        return self.samples[-1] if self.samples else None


class Samples:
    """Every endpoint of a router, looked at once an interval by a thread of its own."""

    def __init__(self, router: Router, interval: float, timeout: float) -> None:
        self._router = router
        self._interval = interval
        self._timeout = timeout
        self._stopped = threading.Event()
        self.topology = router.topology
        self._watched = [
            Watched(shard.name, endpoint) for shard in self.topology.shards.values() for endpoint in shard.endpoints
        ]

    def start(self) -> None:
        """Begin to look."""
        for watched in self._watched:
            name = f"shardpool-top-{watched.shard}"
            # A daemon: leaving waits for nobody who does not answer.
            threading.Thread(target=self._sample, args=(watched,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Look no more; does not wait."""
        self._stopped.set()

    def _sample(self, watched: Watched) -> None:
        while not self._stopped.is_set():
            watched.begun = begun = monotonic()
            watched.samples.append(sample(self._router._fleet, watched.shard, watched.endpoint.name, self._timeout))
            watched.begun = None
            watched.rounds += 1
            self._stopped.wait(max(0.0, begun + self._interval - monotonic()))

    def wait_for_a_round(self) -> None:
        """Return when each endpoint has been looked at once more than before, at the first time twice: for a rate.

        Takes no longer than the interval and the timeout of one that does not answer.
        """
        wanted = {id(watched): max(2, watched.rounds + 1) for watched in self._watched}
        until = monotonic() + self._interval + 2 * (self._timeout + _GRACE)
        while monotonic() < until and any(watched.rounds < wanted[id(watched)] for watched in self._watched):
            self._stopped.wait(0.02)

    def rows(self) -> list[EndpointSample]:
        """What is known now, in the order of the topology; no I/O."""
        now = monotonic()
        primaries = {watched.shard: watched for watched in self._watched if watched.is_primary}
        return [self._row(watched, primaries.get(watched.shard), now) for watched in self._watched]

    def _row(self, watched: Watched, primary: Watched | None, now: float) -> EndpointSample:
        samples = list(watched.samples)
        where = (watched.shard, watched.endpoint.name, watched.endpoint.address)
        silent = watched.begun is not None and now - watched.begun > self._timeout + _GRACE
        if not samples or silent:
            return EndpointSample(*where, "silent" if silent else "…", watched.endpoint.role)
        last = samples[-1]
        if last.error is not None:
            return EndpointSample(
                *where, "silent" if last.is_silent else "down", watched.endpoint.role, error=last.error
            )
        written = [] if primary is None or primary is watched else list(primary.samples)
        pings = sorted(sample.ping for sample in samples if sample.ping is not None)
        return EndpointSample(
            *where,
            "ok" if last.role == watched.endpoint.role else "other role",
            last.role or "",
            connections=last.connections,
            max_connections=last.max_connections,
            active=last.active,
            waiting=last.waiting,
            tps=rate(samples),
            lag=lag(samples, written, now) if last.role == "replica" else None,
            ping_p50=quantile(pings, 0.5),
            ping_p99=quantile(pings, 0.99),
        )

    def as_dict(self, rows: Iterable[EndpointSample]) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "fleet": self.topology.fleet,
            "epoch": self.topology.epoch,
            "endpoints": [asdict(row) for row in rows],
        }


def rate(samples: Sequence[Sample]) -> float | None:
    """Transactions a second between the last two looks, or None; those of the looks themselves are among them."""
    known = [sample for sample in samples if sample.transactions is not None][-2:]
    if len(known) < 2 or known[1].at <= known[0].at:
        return None
    before, after = known[0].transactions or 0, known[1].transactions or 0
    return max(0, after - before) / (known[1].at - known[0].at)


def lag(replica: Sequence[Sample], primary: Sequence[Sample], now: float) -> float | None:
    """How far a replica is behind in seconds, at most; None when it was never seen to have everything.

    It has everything up to the newest moment of which it has replayed what the primary had written by then. While that
    is the newest look at the primary, it is not behind.
    """
    written = [sample for sample in primary if sample.wal is not None]
    replayed = max((sample.wal for sample in replica if sample.wal is not None), default=None)
    if replayed is None or not written:
        return None
    complete = [sample.at for sample in written if (sample.wal or 0) <= replayed]
    if not complete:
        return None
    return 0.0 if complete[-1] == written[-1].at and primary[-1].error is None else now - complete[-1]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted values that `share` of them do not exceed."""
    return values[max(0, ceil(share * len(values)) - 1)] if values else None
