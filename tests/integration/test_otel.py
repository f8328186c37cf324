"""Metrics and spans of a router for OpenTelemetry, by its in-memory exporters, on a real fleet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, RouterMisuse

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shardpool.otel import instrument


@dataclass
class Telemetry:
    """Providers whose exporters keep what they get."""

    reader: InMemoryMetricReader
    meters: MeterProvider
    exporter: InMemorySpanExporter
    tracers: TracerProvider

    def options(self) -> dict[str, Any]:
        return {"meter_provider": self.meters, "tracer_provider": self.tracers}

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric by its name."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> dict[str, Any]:
        """The attributes of the only span of that name."""
        [span] = self.spans(name)
        return dict(span.attributes or {})


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader]), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    yield Telemetry(reader, meters, exporter, tracers)
    meters.shutdown()
    tracers.shutdown()


def point(points: list[Any], **attributes: Any) -> Any:
    wanted = {name.replace("__", "."): value for name, value in attributes.items()}
    [found] = [one for one in points if wanted.items() <= dict(one.attributes).items()]
    return found


def test_metrics_have_the_names_of_the_conventions(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options())
    for _ in range(3):
        router.shard("s1").execute("select pg_sleep(0.002)")
    with pytest.raises(psycopg.errors.UndefinedTable):
        router.shard("s1").execute("select * from nowhere")
    router.execute("select count(*) from orders")
    told = telemetry.metrics()
    assert set(told) == {
        "db.client.connection.count",
        "db.client.connection.max",
        "db.client.connection.idle.min",
        "db.client.connection.pending_requests",
        "db.client.connection.timeouts",
        "db.client.connection.wait_time",
        "db.client.connection.use_time",
        "db.client.connection.create_time",
        "db.client.operation.duration",
        "shardpool.errors",
        "shardpool.topology.epoch",
    }
    uses = point(told["db.client.connection.use_time"], shardpool__shard="s1")
    assert uses.count == router.stats()["shards"]["s1"]["primary"]["calls"]
    assert uses.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
    assert uses.attributes["db.system.name"] == "postgresql"
    assert uses.attributes["db.client.connection.pool.name"] == f"{router.topology.fleet}/s1/primary"
    assert (uses.attributes["shardpool.role"], uses.attributes["shardpool.epoch"]) == ("primary", 5)
    idle = point(told["db.client.connection.count"], shardpool__shard="s1", db__client__connection__state="idle")
    assert idle.value == 1
    assert point(told["db.client.connection.max"], shardpool__shard="s1").value == 10
    assert point(told["shardpool.errors"], shardpool__shard="s1", error__type="UndefinedTable").value == 1
    assert point(told["db.client.connection.create_time"], shardpool__shard="s1").count == 1
    assert point(told["db.client.operation.duration"], db__operation__name="execute").count == 1


def test_a_span_says_how_many_shards_were_asked_and_how(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options())
    router.execute("select count(*) from orders where note = %s", ("a secret",))
    router.scatter("select 1", shards=["s0", "s2"])
    router.map(lambda conn, item: conn.execute("select 1"), [1, 2, 17], key=lambda key: key, table="orders")
    router.copy_into("orders", [(17, 1, "x")], columns=["tenant_id", "n", "note"])
    executed = telemetry.span("shardpool.execute")
    assert executed["shardpool.strategy"] == "add"
    assert (executed["shardpool.fanout"], executed["shardpool.shards"]) == (4, ("s0", "s1", "s2", "s3"))
    assert telemetry.span("shardpool.scatter")["shardpool.shards"] == ("s0", "s2")
    owners = sorted({router.for_key(key, table="orders").shard for key in (1, 2, 17)})
    assert telemetry.span("shardpool.map")["shardpool.shards"] == tuple(owners)
    assert telemetry.span("shardpool.copy_into")["db.collection.name"] == "orders"
    for span in telemetry.exporter.get_finished_spans():
        assert "db.query.text" not in (span.attributes or {})
        assert "a secret" not in span.to_json()


def test_the_text_of_a_statement_is_told_only_on_request(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options(), query_text=True)
    router.execute("select * from orders where tenant_id = %s", (17,))
    told = telemetry.span("shardpool.execute")
    assert told["db.query.text"] == "select * from orders where tenant_id = %s"
    assert (told["shardpool.shards"], told["shardpool.strategy"]) == (("s3",), "one")


def test_a_failed_call_tells_its_class_and_nothing_of_its_values(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options())
    insert = "insert into orders values (%s, %s, %s)"
    router.execute(insert, (17, 1, "hush"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        router.execute(insert, (17, 1, "hush"))
    failed = telemetry.spans("shardpool.execute")[1]
    assert not failed.status.is_ok and failed.status.description is None and not failed.events
    assert (failed.attributes or {})["error.type"] == "UniqueViolation"
    assert (failed.attributes or {})["db.response.status_code"] == "23505"
    duration = point(telemetry.metrics()["db.client.operation.duration"], error__type="UniqueViolation")
    assert duration.count == 1


def test_what_runs_in_the_threads_of_a_verb_is_below_its_span(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options())
    tracer = telemetry.tracers.get_tracer("test")

    def operation(conn: Any) -> None:
        with tracer.start_as_current_span("below"):
            conn.execute("select 1")

    router.scatter(operation)
    [parent] = telemetry.spans("shardpool.scatter")
    assert [span.parent.span_id for span in telemetry.spans("below") if span.parent] == [parent.context.span_id] * 4


def test_a_stream_is_one_span_and_not_the_parent_of_what_its_reader_does(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options())
    router.copy_into("orders", [(key, 1, "x") for key in range(50)], columns=["tenant_id", "n", "note"])
    tracer = telemetry.tracers.get_tracer("test")
    rows = router.stream("select tenant_id from orders order by 1")
    for row in rows:
        with tracer.start_as_current_span("reader"):
            assert row[0] < 50
    told = telemetry.span("shardpool.stream")
    assert (told["shardpool.fanout"], told["shardpool.strategy"]) == (4, "merge")
    assert len(telemetry.spans("reader")) == 50
    assert all(span.parent is None for span in telemetry.spans("reader"))
    left = router.stream("select tenant_id from orders order by 1")
    next(left)
    left.close()
    assert len(telemetry.spans("shardpool.stream")) == 2
    assert all(shard["primary"]["in_flight"] == 0 for shard in router.stats()["shards"].values())


def test_verbs_of_routes_are_spans_too(router: Router, telemetry: Telemetry) -> None:
    instrument(router, **telemetry.options(), query_text=True)
    tracer = telemetry.tracers.get_tracer("test")
    route = router.for_key(17, table="orders")
    route.execute("select 1")
    route.run(lambda conn: conn.execute("select 1"))
    with route.transaction() as conn, tracer.start_as_current_span("below"):
        conn.execute("select 1")
    with pytest.raises(ValueError), route.connection():
        raise ValueError
    assert telemetry.span("shardpool.shard.execute")["db.query.text"] == "select 1"
    for verb in ("execute", "run", "transaction", "connection"):
        assert telemetry.span(f"shardpool.shard.{verb}")["shardpool.shards"] == (route.shard,)
    assert telemetry.span("shardpool.shard.connection")["error.type"] == "ValueError"
    [block], [below] = telemetry.spans("shardpool.shard.transaction"), telemetry.spans("below")
    assert below.parent is not None and below.parent.span_id == block.context.span_id
    # What the verbs of the router do on a shard is theirs.
    router.map(lambda conn, item: conn.execute("select 1"), [1, 2], key=lambda key: key, table="orders")
    router.execute("select count(*) from orders")
    assert [len(telemetry.spans(f"shardpool.shard.{verb}")) for verb in ("execute", "run")] == [1, 1]


async def test_an_async_router_is_reported_alike(topology_path: str, telemetry: Telemetry) -> None:
    async with AsyncRouter(topology_path) as router:
        instrument(router, **telemetry.options())
        await router.execute("select count(*) from orders")
        await router.scatter("select 1")
        await router.copy_into("orders", [(key, 1, "x") for key in range(9)], columns=["tenant_id", "n", "note"])
        assert [row async for row in router.stream("select n from orders where tenant_id = 17")] == []
        assert len([row async for row in router.stream("select n from orders")]) == 9
        assert telemetry.span("shardpool.execute")["shardpool.fanout"] == 4
        assert telemetry.span("shardpool.scatter")["shardpool.fanout"] == 4
        assert [dict(span.attributes or {})["shardpool.fanout"] for span in telemetry.spans("shardpool.stream")] == [
            1,
            4,
        ]
        assert point(telemetry.metrics()["db.client.connection.use_time"], shardpool__shard="s3").count >= 3


def test_a_router_that_is_not_instrumented_has_nothing_in_front_of_its_verbs(
    router: Router, telemetry: Telemetry
) -> None:
    before = dict(vars(router))
    instrumented = instrument(router, **telemetry.options())
    with pytest.raises(RouterMisuse):
        instrument(router)
    assert vars(router) == before
    instrumented.stop()
    assert vars(router) == before
    router.execute("select count(*) from orders")
    assert telemetry.exporter.get_finished_spans() == ()
    assert not any(meter.on_use for meter in router._fleet.meters._meters.values())
