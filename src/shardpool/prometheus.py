"""A router's counters for Prometheus, read when they are scraped. Needs prometheus-client: shardpool[prometheus].

    REGISTRY.register(ShardpoolCollector(router))

Labels name fleet, shard, role and endpoint, never a key or a bucket. docs/reference/stats.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ._async.router import AsyncRouter
    from ._sync.router import Router

_ENDPOINT = ("fleet", "shard", "role", "endpoint")

# Name, help, labels beyond the endpoint's, and where the values are in an endpoint's stats.
_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("shardpool_in_flight", "Callers that hold a connection.", "in_flight"),
    ("shardpool_waiting", "Callers that wait for a connection.", "waiting"),
    ("shardpool_replica_lag_seconds", "How far a replica is behind its primary, at most.", "lag_seconds"),
    ("shardpool_replica_max_lag_seconds", "The lag up to which a replica is read from.", "max_lag"),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("shardpool_calls", "Uses of a connection that have ended.", "calls"),
    ("shardpool_wait_timeouts", "Callers who got no connection before their deadline.", "timeouts"),
    ("shardpool_connect_failures", "Connections that could not be made.", "connect_failures"),
)
_HISTOGRAMS: tuple[tuple[str, str, str], ...] = (
    ("shardpool_wait_seconds", "Time from asking for a connection to having it.", "wait"),
    ("shardpool_use_seconds", "Time from having a connection to giving it back.", "use"),
    ("shardpool_connect_seconds", "Time in which a connection was made and checked.", "connect"),
)
_STATES = ("closed", "open", "half-open")


class ShardpoolCollector(Collector):
    """The metrics of one or several routers; no thread, no I/O: a scrape reads `router.stats()`."""

    def __init__(self, *routers: Router | AsyncRouter) -> None:
        self._routers = routers

    def describe(self) -> Iterator[Metric]:
        """Nothing: else a registry would scrape at once to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, of all routers."""
        stats = [router.stats() for router in self._routers]
        yield from _fleet_metrics(stats)
        yield from _endpoint_metrics(stats)


def _fleet_metrics(fleets: list[dict[str, Any]]) -> Iterator[Metric]:
    epoch = GaugeMetricFamily("shardpool_epoch", "The epoch of the topology in force.", labels=["fleet"])
    newest = GaugeMetricFamily(
        "shardpool_newest_epoch_seen", "The newest epoch that a server has told.", labels=["fleet"]
    )
    statements = CounterMetricFamily(
        "shardpool_statements", "Statements without a key, by how they were run.", labels=["fleet", "strategy"]
    )
    transactions = CounterMetricFamily(
        "shardpool_transactions", "Transactions of transaction() and writes on several shards.", labels=["fleet", "end"]
    )
    unfinished = GaugeMetricFamily(
        "shardpool_transactions_unfinished", "Transactions over several shards that are being ended.", labels=["fleet"]
    )
    reloads = CounterMetricFamily("shardpool_reloads", "Topologies taken over.", labels=["fleet"])
    failures = CounterMetricFamily(
        "shardpool_reload_failures", "Topologies that could not be taken over.", labels=["fleet"]
    )
    changes = CounterMetricFamily(
        "shardpool_primary_changes", "Times that another node became primary.", labels=["fleet", "shard"]
    )
    for stats in fleets:
        fleet = stats["fleet"]
        epoch.add_metric([fleet], stats["epoch"])
        newest.add_metric([fleet], stats["newest_epoch_seen"])
        reloads.add_metric([fleet], stats["reloads"])
        failures.add_metric([fleet], stats["reload_failures"])
        for strategy, count in stats["statements"].items():
            statements.add_metric([fleet, strategy], count)
        for end, count in stats["transactions"].items():
            if end == "unfinished":
                unfinished.add_metric([fleet], count)
            else:
                transactions.add_metric([fleet, end], count)
        for shard, count in stats["primary_changes"].items():
            changes.add_metric([fleet, shard], count)
    yield from (epoch, newest, statements, transactions, unfinished, reloads, failures, changes)


def _endpoint_metrics(fleets: list[dict[str, Any]]) -> Iterator[Metric]:
    endpoints = [
        ([stats["fleet"], shard, endpoint["role"], name], endpoint)
        for stats in fleets
        for shard, endpoints in stats["shards"].items()
        for name, endpoint in endpoints.items()
    ]
    yield from _states(endpoints)
    yield from _connections(endpoints)
    for name, text, field in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=_ENDPOINT)
        for labels, endpoint in endpoints:
            if endpoint.get(field) is not None:
                gauge.add_metric(labels, endpoint[field])
        yield gauge
    for name, text, field in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_ENDPOINT)
        for labels, endpoint in endpoints:
            counter.add_metric(labels, endpoint[field])
        yield counter
    for name, text, field, label in (
        ("shardpool_errors", "Calls that failed, by class of the error.", "errors", "error"),
        ("shardpool_events", "What happened, by kind.", "events", "event"),
    ):
        counter = CounterMetricFamily(name, text, labels=[*_ENDPOINT, label])
        for labels, endpoint in endpoints:
            for value, count in endpoint[field].items():
                counter.add_metric([*labels, value], count)
        yield counter
    bounds = fleets[0]["bounds"] if fleets else []
    for name, text, field in _HISTOGRAMS:
        histogram = HistogramMetricFamily(name, text, labels=_ENDPOINT)
        for labels, endpoint in endpoints:
            histogram.add_metric(labels, _buckets(bounds, endpoint[field]), endpoint[field]["sum"])
        yield histogram


def _states(endpoints: list[tuple[list[str], dict[str, Any]]]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "shardpool_endpoint_up", "1 unless calls to it are refused or cannot connect.", labels=_ENDPOINT
    )
    state = GaugeMetricFamily("shardpool_breaker_state", "1 at the state of its breaker.", labels=[*_ENDPOINT, "state"])
    for labels, endpoint in endpoints:
        state_now = endpoint.get("state", "closed")
        up.add_metric(labels, 1 if state_now == "closed" and endpoint["last_error"] is None else 0)
        for name in _STATES:
            state.add_metric([*labels, name], 1 if name == state_now else 0)
    yield from (up, state)


def _connections(endpoints: list[tuple[list[str], dict[str, Any]]]) -> Iterator[Metric]:
    connections = GaugeMetricFamily("shardpool_connections", "Connections of the pool.", labels=[*_ENDPOINT, "state"])
    most = GaugeMetricFamily("shardpool_connections_max", "How many connections the pool may have.", labels=_ENDPOINT)
    least = GaugeMetricFamily("shardpool_connections_min", "How many connections the pool keeps.", labels=_ENDPOINT)
    for labels, endpoint in endpoints:
        idle = endpoint["pool"].get("pool_available", 0)
        connections.add_metric([*labels, "idle"], idle)
        connections.add_metric([*labels, "used"], endpoint["pool"].get("pool_size", 0) - idle)
        most.add_metric(labels, endpoint["limits"]["max_size"])
        least.add_metric(labels, endpoint["limits"]["min_size"])
    yield from (connections, most, least)


def _buckets(bounds: list[float], histogram: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [
        *((str(bound), float(count)) for bound, count in zip(bounds, histogram["at_most"], strict=True)),
        ("+Inf", float(histogram["count"])),
    ]
