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
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ._meter import Meter
from .errors import RouterMisuse
from .events import Connected, Event
from .query.counts import Counts

if TYPE_CHECKING:
    from ._async.router import AsyncRouter
    from ._sync.router import Router

SCOPE = "shardpool"
# Advised by the conventions for db.client.operation.duration; the pool's own waits are shorter.
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_SYSTEM = {"db.system.name": "postgresql"}
_VERBS = ("execute", "scatter", "map", "copy_into")


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
    if "_instrumented" in vars(router):
        raise RouterMisuse("this router is instrumented already", hint="Call stop() of the first one before.")
    return Instrumented(router, meter_provider, tracer_provider, query_text)


@dataclass(slots=True)
class _Call:
    """One call of a verb, as far as it is known: filled in where connections are used and plans are made."""

    shards: set[str] = field(default_factory=set)
    strategy: str | None = None


_call: ContextVar[_Call | None] = ContextVar("shardpool_call", default=None)


class _NotingCounts(Counts):
    """The router's counts of strategies, which also tells the call that runs."""

    def __init__(self, counts: Counts) -> None:
        self._counters = counts._counters

    def add(self, strategy: str) -> None:
        Counts.add(self, strategy)
        call = _call.get()
        if call is not None:
            call.strategy = strategy


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
        self._is_async = hasattr(router, "__aenter__")
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self._on = True
        self._make_instruments(metrics.get_meter(SCOPE, meter_provider=meter_provider))
        router._observers.add(self)
        router._meters.call_on_use(self._used)
        self._counts = router._counts
        router._counts = _NotingCounts(router._counts)
        # Instance attributes in front of the methods: a router that is not instrumented pays nothing.
        for verb in _VERBS:
            setattr(router, verb, self._traced(verb))
        router.stream = self._traced_stream()  # type: ignore[method-assign]
        vars(router)["_instrumented"] = self

    def stop(self) -> None:
        """Report nothing more of this router."""
        self._on = False
        self._router._observers.remove(self)
        self._router._meters.call_on_use(None)
        # The same counters: nothing that was counted meanwhile is lost.
        self._router._counts = self._counts
        for name in (*_VERBS, "stream", "_instrumented"):
            vars(self._router).pop(name, None)

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
                found = value(endpoint)
                if found is not None:
                    yield Observation(found, attributes)

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
        call = _call.get()
        if call is not None:
            call.shards.add(meter.shard)

    def observe(self, event: Event) -> None:
        """Called by the router for each event."""
        if isinstance(event, Connected):
            self._create_time.record(event.seconds, self._of(event.shard, event.endpoint))

    def _of(self, shard: str, endpoint: str) -> dict[str, Any]:
        topology = self._router.topology
        found = topology.shards.get(shard)
        role = next((one.role for one in found.endpoints if one.name == endpoint), "") if found is not None else ""
        return _attributes(topology.fleet, shard, endpoint, role, topology.epoch)

    # -- spans ---------------------------------------------------------------------------------------------------

    def _traced(self, verb: str) -> Callable[..., Any]:
        original = getattr(self._router, verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._span(verb, args) as asked:
                value = original(*args, **kwargs)
                _note_answer(asked, verb, value)
                return value

        async def async_call(*args: Any, **kwargs: Any) -> Any:
            with self._span(verb, args) as asked:
                value = await original(*args, **kwargs)
                _note_answer(asked, verb, value)
                return value

        return async_call if self._is_async else call

    @contextmanager
    def _span(self, verb: str, args: tuple[Any, ...]) -> Iterator[_Call]:
        """The current span while a verb runs."""
        call, begun = _Call(), monotonic()
        token = _call.set(call)
        try:
            with self._tracer.start_as_current_span(
                f"shardpool.{verb}",
                kind=SpanKind.INTERNAL,
                attributes=self._begun_with(verb, args),
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    yield call
                except BaseException as error:
                    self._end(verb, span, call, begun, error)
                    raise
                self._end(verb, span, call, begun, None)
        finally:
            _call.reset(token)

    def _traced_stream(self) -> Callable[..., Any]:
        original = self._router.stream

        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            return self._each(original(*args, **kwargs), args)

        def async_stream(*args: Any, **kwargs: Any) -> Any:
            return self._async_each(original(*args, **kwargs), args)

        return async_stream if self._is_async else stream

    def _each(self, rows: Any, args: tuple[Any, ...]) -> Iterator[Any]:
        with self._long_span(args) as (span, call):
            try:
                while True:
                    # Only while the stream works: between two rows the caller's own span is the current one.
                    with _within(span, call):
                        try:
                            row = next(rows)
                        except StopIteration:
                            return
                    yield row
            finally:
                with _within(span, call):
                    rows.close()

    async def _async_each(self, rows: Any, args: tuple[Any, ...]) -> Any:
        with self._long_span(args) as (span, call):
            try:
                while True:
                    with _within(span, call):
                        try:
                            row = await anext(rows)
                        except StopAsyncIteration:
                            return
                    yield row
            finally:
                await rows.aclose()

    @contextmanager
    def _long_span(self, args: tuple[Any, ...]) -> Iterator[tuple[Span, _Call]]:
        call, begun = _Call(), monotonic()
        span = self._tracer.start_span(
            "shardpool.stream", kind=SpanKind.INTERNAL, attributes=self._begun_with("stream", args)
        )
        ended: BaseException | None = None
        try:
            yield span, call
        except GeneratorExit:
            raise
        except BaseException as error:
            ended = error
            raise
        finally:
            self._end("stream", span, call, begun, ended)
            span.end()

    def _begun_with(self, verb: str, args: tuple[Any, ...]) -> dict[str, Any]:
        topology = self._router.topology
        attributes: dict[str, Any] = {
            **_SYSTEM,
            "db.operation.name": verb,
            "shardpool.fleet": topology.fleet,
            "shardpool.epoch": topology.epoch,
        }
        if verb == "copy_into" and args:
            attributes["db.collection.name"] = str(args[0])
        if self._query_text and verb in ("execute", "stream", "scatter") and args and isinstance(args[0], str | bytes):
            attributes["db.query.text"] = args[0] if isinstance(args[0], str) else args[0].decode(errors="replace")
        return attributes

    def _end(self, verb: str, span: Span, call: _Call, begun: float, error: BaseException | None) -> None:
        shards = sorted(call.shards)
        span.set_attribute("shardpool.fanout", len(shards))
        span.set_attribute("shardpool.shards", shards)
        if call.strategy is not None:
            span.set_attribute("shardpool.strategy", call.strategy)
        attributes: dict[str, Any] = {
            **_SYSTEM,
            "db.operation.name": verb,
            "shardpool.fleet": self._router.topology.fleet,
        }
        if len(shards) == 1:
            attributes["shardpool.shard"] = shards[0]
        if error is not None:
            # Its class and SQLSTATE alone: the message can hold values.
            told = {"error.type": type(error).__qualname__}
            if (sqlstate := getattr(error, "sqlstate", None)) is not None:
                told["db.response.status_code"] = sqlstate
            span.set_attributes(told)
            span.set_status(Status(StatusCode.ERROR))
            attributes |= told
        self._duration.record(monotonic() - begun, attributes)


@contextmanager
def _within(span: Span, call: _Call) -> Iterator[None]:
    token = _call.set(call)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    finally:
        _call.reset(token)


def _note_answer(call: _Call, verb: str, value: Any) -> None:
    """The answer says exactly which shards were asked for it."""
    if verb == "execute":
        call.shards = set(value.shards)
        call.strategy = value.plan.strategy if value.plan is not None else "one"
    elif verb in ("scatter", "copy_into"):
        call.shards = set(value)


def _attributes(fleet: str, shard: str, endpoint: str, role: str, epoch: int) -> dict[str, Any]:
    return {
        **_SYSTEM,
        "db.client.connection.pool.name": f"{fleet}/{shard}/{endpoint}",
        "shardpool.fleet": fleet,
        "shardpool.shard": shard,
        "shardpool.role": role,
        "shardpool.epoch": epoch,
    }
