"""Metrics and spans of a router for OpenTelemetry. Needs opentelemetry-api: shardpool[otel].

    instrumented = instrument(router)
    …
    instrumented.stop()

Metrics have the names of the semantic conventions for database clients. Spans are those of the router's verbs alone:
opentelemetry-instrumentation-psycopg makes those of statements, below them. A span says how many shards were asked,
which and how; never a parameter, and the text of a statement only when `query_text` asks for it.

https://opentelemetry.io/docs/specs/semconv/db/database-metrics/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ._endpoint.meter import Meter
from ._runtime.calls import CallRecord, current_call
from .errors import RouterMisuse
from .events import Connected, Event

if TYPE_CHECKING:
    from ._async.router import AsyncRouter
    from ._sync.router import Router

SCOPE = "shardpool"
# Advised by the conventions for db.client.operation.duration; the pool's own waits are shorter.
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_SYSTEM = {"db.system.name": "postgresql"}


def instrument(
    router: Router | AsyncRouter,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    query_text: bool = False,
) -> Instrumented:
    """Report a router's metrics and spans from now on, until `stop()` of what this gives.

    The providers default to the global ones. `query_text` puts the text of statements into spans: without parameters,
    but with the literals that are written in it. Raises `RouterMisuse` for a router that is instrumented already.
    """
    if router._fleet.calls.listener is not None:
        raise RouterMisuse("this router is instrumented already", hint="Call stop() of the first one before.")
    return Instrumented(router, meter_provider, tracer_provider, query_text)


class Instrumented:
    """A router that is observed; see `instrument`."""

    def __init__(
        self,
        router: Router | AsyncRouter,
        meter_provider: MeterProvider | None,
        tracer_provider: TracerProvider | None,
        query_text: bool,
    ) -> None:
        self._router: Any = router
        self._query_text = query_text
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self._on = True
        self._make_instruments(metrics.get_meter(SCOPE, meter_provider=meter_provider))
        router._fleet.observers.add(self)
        router._fleet.meters.call_on_use(self._used)
        router._fleet.calls.listener = self

    def stop(self) -> None:
        """Report nothing more of this router."""
        self._on = False
        self._router._fleet.observers.remove(self)
        self._router._fleet.meters.call_on_use(None)
        self._router._fleet.calls.listener = None

    # -- metrics -------------------------------------------------------------------------------------------------

    def _make_instruments(self, meter: metrics.Meter) -> None:
        def histogram(name: str, text: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=_SECONDS)

        self._wait_time = histogram("db.client.connection.wait_time", "Time to obtain a connection from the pool.")
        self._use_time = histogram("db.client.connection.use_time", "Time between taking a connection and giving it.")
        self._create_time = histogram("db.client.connection.create_time", "Time to make a connection.")
        self._duration = histogram("db.client.operation.duration", "Duration of a call of the router.")
        gauges: tuple[tuple[str, str, str, Callable[[Any], Any]], ...] = (
            ("db.client.connection.max", "{connection}", "Connections allowed.", lambda e: e["limits"]["max_size"]),
            ("db.client.connection.idle.min", "{connection}", "Connections kept.", lambda e: e["limits"]["min_size"]),
            ("db.client.connection.pending_requests", "{request}", "Callers that wait.", lambda e: e["waiting"]),
        )
        for name, unit, text, value in gauges:
            meter.create_observable_up_down_counter(name, [self._observing(value)], unit, text)
        meter.create_observable_up_down_counter(
            "db.client.connection.count", [self._observe_connections], "{connection}", "Connections by their state."
        )
        meter.create_observable_counter(
            "db.client.connection.timeouts",
            [self._observing(lambda e: e["timeouts"])],
            "{timeout}",
            "Callers who got no connection in time.",
        )
        meter.create_observable_counter("shardpool.errors", [self._observe_errors], "{error}", "Calls that failed.")
        meter.create_observable_gauge(
            "shardpool.replica.lag",
            [self._observing(lambda e: e.get("lag_seconds"))],
            "s",
            "Lag of a replica, at most.",
        )
        meter.create_observable_gauge("shardpool.topology.epoch", [self._observe_epoch], "{epoch}", "Epoch in force.")

    def _endpoints(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The attributes and the stats of each endpoint."""
        if not self._on:
            return
        stats = self._router.stats()
        for shard, endpoints in stats["shards"].items():
            for name, endpoint in endpoints.items():
                yield _attributes(stats["fleet"], shard, name, endpoint["role"], stats["epoch"]), endpoint

    def _observing(self, value: Callable[[Any], Any]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for attributes, endpoint in self._endpoints():
                measured = value(endpoint)
                if measured is not None:
                    yield Observation(measured, attributes)

        return observe

    def _observe_connections(self, _: CallbackOptions) -> Iterator[Observation]:
        for attributes, endpoint in self._endpoints():
            idle = endpoint["pool"].get("pool_available", 0)
            used = endpoint["pool"].get("pool_size", 0) - idle
            for state, count in (("idle", idle), ("used", used)):
                yield Observation(count, {**attributes, "db.client.connection.state": state})

    def _observe_errors(self, _: CallbackOptions) -> Iterator[Observation]:
        for attributes, endpoint in self._endpoints():
            for error, count in endpoint["errors"].items():
                yield Observation(count, {**attributes, "error.type": error})

    def _observe_epoch(self, _: CallbackOptions) -> Iterator[Observation]:
        if self._on:
            topology = self._router.topology
            yield Observation(topology.epoch, {"shardpool.fleet": topology.fleet})

    def _used(self, meter: Meter, wait: float, use: float) -> None:
        attributes = self._of(meter.shard, meter.endpoint)
        self._wait_time.record(wait, attributes)
        self._use_time.record(use, attributes)
        record = current_call.get()
        if record is not None:
            record.shards.add(meter.shard)

    def observe(self, event: Event) -> None:
        """Called by the router for each event."""
        if isinstance(event, Connected):
            self._create_time.record(event.seconds, self._of(event.shard, event.endpoint))

    def _of(self, shard: str, endpoint: str) -> dict[str, Any]:
        topology = self._router.topology
        named = topology.shards.get(shard)
        role = next((one.role for one in named.endpoints if one.name == endpoint), "") if named is not None else ""
        return _attributes(topology.fleet, shard, endpoint, role, topology.epoch)

    # -- spans ---------------------------------------------------------------------------------------------------

    @contextmanager
    def during(self, record: CallRecord) -> Iterator[CallRecord]:
        """The current span while a verb runs."""
        begun = monotonic()
        token = current_call.set(record)
        try:
            with self._tracer.start_as_current_span(
                f"shardpool.{record.verb}",
                kind=SpanKind.INTERNAL,
                attributes=self._begun_with(record),
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    yield record
                except BaseException as error:
                    self._end(span, record, begun, error)
                    raise
                self._end(span, record, begun, None)
        finally:
            current_call.reset(token)

    def stream(self, rows: Any, record: CallRecord) -> Iterator[Any]:
        """The rows of a stream, which is one span."""
        with self._long_span(record) as span:
            try:
                while True:
                    # Only while the stream works: between two rows the caller's own span is the current one.
                    with _within(span, record):
                        try:
                            row = next(rows)
                        except StopIteration:
                            return
                    yield row
            finally:
                with _within(span, record):
                    rows.close()

    async def async_stream(self, rows: Any, record: CallRecord) -> Any:
        """As `stream`, of rows that are awaited."""
        with self._long_span(record) as span:
            try:
                while True:
                    with _within(span, record):
                        try:
                            row = await anext(rows)
                        except StopAsyncIteration:
                            return
                    yield row
            finally:
                await rows.aclose()

    @contextmanager
    def _long_span(self, record: CallRecord) -> Iterator[Span]:
        begun = monotonic()
        span = self._tracer.start_span("shardpool.stream", kind=SpanKind.INTERNAL, attributes=self._begun_with(record))
        ended: BaseException | None = None
        try:
            yield span
        except GeneratorExit:
            raise
        except BaseException as error:
            ended = error
            raise
        finally:
            self._end(span, record, begun, ended)
            span.end()

    def _begun_with(self, record: CallRecord) -> dict[str, Any]:
        topology = self._router.topology
        attributes: dict[str, Any] = {
            **_SYSTEM,
            "db.operation.name": record.verb,
            "shardpool.fleet": topology.fleet,
            "shardpool.epoch": topology.epoch,
        }
        if record.verb == "copy_into":
            attributes["db.collection.name"] = str(record.subject)
        elif self._query_text and isinstance(record.subject, str | bytes):
            text = record.subject
            attributes["db.query.text"] = text if isinstance(text, str) else text.decode(errors="replace")
        return attributes

    def _end(self, span: Span, record: CallRecord, begun: float, error: BaseException | None) -> None:
        shards = sorted(record.shards)
        span.set_attribute("shardpool.fanout", len(shards))
        span.set_attribute("shardpool.shards", shards)
        if record.strategy is not None:
            span.set_attribute("shardpool.strategy", record.strategy)
        attributes: dict[str, Any] = {
            **_SYSTEM,
            "db.operation.name": record.verb,
            "shardpool.fleet": self._router.topology.fleet,
        }
        if len(shards) == 1:
            attributes["shardpool.shard"] = shards[0]
        if error is not None:
            # Its class and SQLSTATE alone: the message can hold values.
            error_attributes = {"error.type": type(error).__qualname__}
            if (sqlstate := getattr(error, "sqlstate", None)) is not None:
                error_attributes["db.response.status_code"] = sqlstate
            span.set_attributes(error_attributes)
            span.set_status(Status(StatusCode.ERROR))
            attributes |= error_attributes
        self._duration.record(monotonic() - begun, attributes)


@contextmanager
def _within(span: Span, record: CallRecord) -> Iterator[None]:
    token = current_call.set(record)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    finally:
        current_call.reset(token)


def _attributes(fleet: str, shard: str, endpoint: str, role: str, epoch: int) -> dict[str, Any]:
    return {
        **_SYSTEM,
        "db.client.connection.pool.name": f"{fleet}/{shard}/{endpoint}",
        "shardpool.fleet": fleet,
        "shardpool.shard": shard,
        "shardpool.role": role,
        "shardpool.epoch": epoch,
    }
