# Generated from _async/planning.py by tools/unasync.py: edit that one, then run `make sync`.
"""`execute` without a key: from the SQL to a plan, cached by its text, and from the parameters to the shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.adapt import AdaptersMap, PyFormat
from psycopg.rows import tuple_row

from .._concurrency import aside, run_all, sleep
from .._joint import Joint, own
from ..errors import DeadlineExceeded, InvalidKey, RoutingError, ScatterError, ShardError, UnsupportedQuery
from ..events import LongPlan
from ..keys import KeyType, cut, key_parts, shown, varchar_length
from ..query import catalog as catalogs
from ..query import purity
from ..query.alike import Difference, differences
from ..query.bound import Bound, Incomplete, bind
from ..query.catalog import Catalog
from ..query.merging import NotHere
from ..query.placeholders import Converted, convert
from ..query.plan import Plan
from ..query.planner import completed
from ..query.planner import plan as make_plan
from ..query.reading import as_read, depends_on
from ..query.remembered import LONG
from ..query.statement import kind, parse, walk
from ..topology import Topology

if TYPE_CHECKING:
    from .lease import Params
    from .route import Route
    from .router import Router
    from .state import State

T = TypeVar("T")
# Two shards, and a setting that they do not have alike, with the value of each.
Unlike = tuple[str, str, str, str | None, str | None]

# Seconds after which a catalog is read again before something is refused: DDL may have made it possible.
_FRESH = 1.0
# The longest that one shard is waited for when another could tell as much.
_PATIENCE = 0.5
# Seconds between two attempts to learn what one who had less time has not learned.
_PAUSE = 0.02
# Seconds for which a look at a shard holds.
SEEN_SECONDS = 2.0
# For these the fast look-up of a key is right whatever the statement compares it with.
_EXACT: Mapping[KeyType, tuple[type, ...]] = {"bigint": (int,), "text": (str,)}


class Planned:
    """A statement as it is kept: its plan, its placeholders, and a short way for one that a parameter routes."""

    __slots__ = ("converted", "count", "exact", "foreign", "lookup", "place", "plan", "reading", "topology")

    def __init__(
        self, plan: Plan, converted: Converted | None, state: State, foreign: frozenset[type] = frozenset()
    ) -> None:
        # Types of which the connections do not send what psycopg would: their values tell nothing of a key.
        self.foreign = foreign
        self.plan = plan
        self.converted = converted
        self.topology = state.topology
        # The settings by which its text was read, where others would have it mean something else.
        self.reading: Mapping[str, str | None] | None = None
        self.lookup: Callable[[Any], Route] | None = None
        self.exact: tuple[type, ...] = ()
        self.place: int | str = 0
        self.count = len(converted.names) if converted is not None else 0
        if plan.key_param is not None and converted is not None:
            keyspace, number = plan.key_param
            exact = _EXACT.get(state.topology.keyspaces[keyspace].key_types[0], ())
            self.exact = tuple(type_ for type_ in exact if type_ not in foreign)
            self.lookup = state.lookup_by_keyspace[keyspace] if self.exact else None
            self.place = converted.names[number]

    def arrange(self, params: Params | None) -> list[Any]:
        """The parameters as the plan may look at them."""
        values = self.given(params)
        return [_SENT_OTHERWISE if self._is_foreign(value) else value for value in values] if self.foreign else values

    def given(self, params: Params | None) -> list[Any]:
        """The parameters in their order."""
        return [] if params is None or self.converted is None else self.converted.arrange(params)

    def _is_foreign(self, value: Any) -> bool:
        values = value if type(value) is list else [value]
        return any(type(one) in self.foreign for one in values)


class AdaptedValue:
    """Stands for the value of a parameter that is sent as the caller's own adapters make it."""


_SENT_OTHERWISE = AdaptedValue()
_KEY_VALUES = (int, str, bytes, Decimal, UUID, date, datetime)


class Adapted:
    """The adapters of a connection, by which psycopg makes text of its objects; in UTF-8."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters

    @cached_property
    def foreign(self) -> frozenset[type]:
        """The types of keys that are not dumped by psycopg's own dumpers."""
        formats = (PyFormat.AUTO, PyFormat.TEXT, PyFormat.BINARY)
        return frozenset(
            type_
            for type_ in _KEY_VALUES
            if any(not _is_own(self.adapters.get_dumper(type_, format_)) for format_ in formats)
        )


def _is_own(dumper: type) -> bool:
    return dumper.__module__.partition(".")[0] in ("psycopg", "psycopg_c", "psycopg_binary")


class Seen(NamedTuple):
    """A number that changes when the catalog of a shard does; until when that is believed, in monotonic seconds.

    None of a shard that has not told yet.
    """

    until: float
    mark: str | None


class Knowledge:
    """What the shards have told of themselves: one shard's catalog, and which others have been found to be like it."""

    def __init__(self) -> None:
        self.catalog: Catalog | None = None
        self.told: Mapping[str, Any] = {}
        self.by: str = ""
        self.read_at = float("-inf")
        self.built_in: list[Any] | None = None
        # What each of the shards that have been compared has otherwise.
        self.differences: dict[str, list[Difference]] = {}
        # What new connections, too, did not have alike when they were looked at last.
        self.unlike: set[Unlike] = set()
        # How the connections write values, and the encoding that they have.
        self.adapted = Adapted(psycopg.adapters)
        self.encoding = "utf-8"
        # The shard that was asked last for its catalog.
        self.asked = ""
        # How often the catalog was forgotten: what was begun to be read before is not believed after.
        self.changes = 0
        # What the shards were like when they were last looked at, for statements that may be read from a replica and
        # for others: see freshness.
        self.seen: dict[tuple[str, bool], Seen] = {}
        # Hundreds of callers may want to know the same thing at once: when a router begins, and after DDL.
        self.joint = Joint()

    @property
    def settings(self) -> Mapping[str, str | None]:
        """Those of the session that has told of the catalog."""
        return self.told.get("settings") or {}

    def start_afresh(self) -> None:
        """In a forked child, which has not got the threads."""
        self.joint = Joint()


def planned(router: Router, query: Any, params: Params | None, deadline: float, strategy: str | None = None) -> Planned:
    """The plan of a statement; cached by its text for as long as topology and catalog hold."""
    state = router._state
    key = (query, params is None, strategy)
    if type(query) is str:
        found = state.plans.get(key)
        if found is not None:
            return found
    catalog_of(router, deadline)
    text, converted = _text(as_text(router, query, deadline), params is not None)
    if type(query) is str and (found := state.plans.get(key)) is not None:
        # Made by another who has waited for the catalog, too.
        return found
    changes = router._knowledge.changes
    made = _made(router, text, state.topology, deadline)
    found = Planned(made, converted, state, router._knowledge.adapted.foreign)
    found.reading = {name: router._knowledge.settings.get(name) for name in depends_on(text)} or None
    if type(query) is str and changes == router._knowledge.changes:
        state.plans.keep(key, found, len(text))
    return found


def as_text(router: Router, query: Any, deadline: float) -> str:
    """The text of a query that is planned, and run: psycopg's objects are written as the router's connections do."""
    if isinstance(query, str):
        return query
    catalog_of(router, deadline)
    known = router._knowledge
    if isinstance(query, sql.Composable):
        return query.as_bytes(known.adapted).decode()
    if isinstance(query, bytes):
        return query.decode(known.encoding)
    raise UnsupportedQuery(
        f"a query of type {type(query).__name__} cannot be routed by its tables",
        hint="Pass str, bytes or a psycopg.sql object, or give key=….",
    )


def otherwise(
    router: Router, query: Any, params: Params | None, deadline: float, reason: Exception
) -> tuple[Planned, Bound]:
    """The plan that takes the place of one whose answer was not quite right, or could not be put together here.

    It is kept for the next calls unless the reason was in the parameters of this one.
    """
    strategy = "combine" if isinstance(reason, NotHere) else "pull"
    found = planned(router, query, params, deadline, strategy)
    if type(query) is str and getattr(reason, "lasting", True):
        router._state.plans.keep((query, params is None, None), found, len(query))
    return found, bound(router, found, params, deadline, strategy)


def _made(router: Router, text: str, topology: Topology, deadline: float) -> Plan:
    """A new plan. Nothing is refused by an old catalog."""
    while True:
        catalog = catalog_of(router, deadline)
        try:
            text = as_read(text, catalog.settings)
            return _told_if_long(router, text, bind_arguments(make_plan, text, topology, catalog))
        except catalogs.NeedsShard as needed:
            told = _told(router, needed.shard, deadline)
            router._knowledge.catalog = catalogs.with_singles(catalog, needed.shard, told, router._state.topology)
        except (RoutingError, UnsupportedQuery, psycopg.errors.UndefinedFunction):
            if not _refreshed(router, deadline):
                raise


def _told_if_long(router: Router, text: str, make: Callable[[], Plan]) -> Plan:
    begun = monotonic()
    made = beside(text, make)
    if len(text) >= LONG:
        router._observers.observe(LongPlan(characters=len(text), seconds=monotonic() - begun))
    return made


def beside(text: str, function: Callable[[], T]) -> T:
    """What a function makes of a text; of a long one in a thread: the event loop goes on."""
    return aside(function) if len(text) >= LONG else function()


def bound(router: Router, found: Planned, params: Params | None, deadline: float, strategy: str | None = None) -> Bound:
    """The shards that the statement asks with these parameters; `OtherMap` when keys are known to be elsewhere."""
    if router._outdated.told:
        for use in found.plan.uses:
            router._outdated.check(use.keyspace, router._state.topology)
    topology, values = found.topology, found.arrange(params)
    while True:
        try:
            try:
                return beside(found.plan.sql, bind_arguments(bind, found.plan, topology, values))
            except Incomplete:
                catalog = catalog_of(router, deadline)
                text = found.plan.sql
                complete = bind_arguments(completed, text, topology, catalog, strategy=strategy)
                found.plan = _told_if_long(router, text, complete)
        except (UnsupportedQuery, psycopg.errors.UndefinedFunction):
            if found.plan.verb != "SELECT" or not _refreshed(router, deadline):
                raise
            found.plan = _made(router, found.plan.sql, topology, deadline)


def any_shard(router: Router) -> str:
    """Each shard in turn, passing over those that could not be reached last."""
    return any_order(router)[0]


def any_order(router: Router) -> list[str]:
    """All shards, beginning with another one each time; those that could not be reached last come last."""
    pools = router._state.pools
    names = list(pools)
    router._turn += 1
    order = [names[(router._turn + number) % len(names)] for number in range(len(names))]
    return sorted(order, key=lambda name: pools[name].primary.is_failing)


def _text(query: str, has_params: bool) -> tuple[str, Converted | None]:
    if "\0" in query:
        raise UnsupportedQuery("the statement holds a NUL character")
    converted = convert(query.encode()) if has_params else None
    return (converted.text.decode() if converted is not None else query), converted


def is_ddl(status: bytes | None) -> bool:
    """Whether a command tag is one of a statement that may change what the catalog says."""
    return status is not None and status.startswith((b"CREATE", b"ALTER", b"DROP"))


def may_write(router: Router, query: Any) -> bool:
    """Whether a statement may write; told by its text and the catalog, if that is known. No I/O."""
    trees = trees_of(query)
    return trees is None or any(purity.may_write(tree, router._knowledge.catalog) for tree in trees)


def trees_of(query: Any) -> list[Any] | None:
    """The statements of a query with parameters, parsed; None for what cannot be."""
    try:
        if isinstance(query, sql.Composable):
            query = query.as_bytes(None)
        return parse(_text(query.decode() if isinstance(query, bytes) else query, True)[0])
    except Exception:
        return None


def forget_catalog(router: Router) -> None:
    """Read it again before the next statement is planned: DDL was run, or what it says turned out to be wrong."""
    router._knowledge.changes += 1
    router._knowledge.catalog = None
    router._state.plans.clear()


def _together(router: Router, key: tuple[Any, ...], function: Callable[[float], T], deadline: float) -> T:
    """What `function(deadline)` gives, asked once for all who ask at the same time, each within its own deadline."""
    while True:
        # Not less than what is usual: of callers who have little time each none would ever get to the end of it.
        until = max(deadline, router._deadline(None))
        run = router._knowledge.joint.run((*key, router._state), bind_arguments(function, until))
        outcome = run.wait(deadline)
        router._check_usable()
        if outcome is None:
            shard = router._knowledge.asked
            raise DeadlineExceeded(f"the deadline passed before shard {shard} told of its tables", shard=shard)
        value, error = outcome
        if error is None:
            return cast("T", value)
        if not isinstance(error, DeadlineExceeded) or monotonic() + _PAUSE >= deadline:
            raise own(error) from error
        # It was begun by one who had less time.
        sleep(_PAUSE)


def _refreshed(router: Router, deadline: float) -> bool:
    """Read the catalog again; not when that has just been done and nothing has changed since."""
    asked, changed = monotonic(), False
    while True:
        begun, has_changed = _together(router, ("refresh",), bind_arguments(_refresh, router), deadline)
        changed = changed or has_changed
        if begun >= asked:
            return changed


def _refresh(router: Router, deadline: float) -> tuple[float, bool]:
    known, begun = router._knowledge, monotonic()
    if begun - known.read_at < _FRESH and known.by in router._state.pools:
        before = known.seen[known.by, False].mark
        if mark_of(router, known.by, deadline, False) == before:
            return begun, False
    forget_catalog(router)
    catalog_of(router, deadline)
    return begun, True


def catalog_of(router: Router, deadline: float) -> Catalog:
    """The catalog of the first shard that answers."""
    known = router._knowledge
    if known.catalog is not None and set(router._state.topology.placements) == known.told.get("asked"):
        return known.catalog
    key = ("catalog", known.changes)
    return _together(router, key, bind_arguments(_read_catalog, router), deadline)


def _read_catalog(router: Router, deadline: float) -> Catalog:
    known = router._knowledge
    changes = known.changes
    names = any_order(router)
    for number, name in enumerate(names):
        left = deadline - monotonic()
        until = deadline if number == len(names) - 1 else monotonic() + min(_PATIENCE, left / 3)
        try:
            told = _ask_told(router, name, False, until)
            if known.built_in is None:
                known.built_in = _asked(router, name, catalogs.BUILT_IN_QUERY, None, until)
        except ShardError:
            if number == len(names) - 1 or monotonic() >= deadline:
                raise
        else:
            break
    assert known.built_in is not None
    if known.told and catalogs.shapes(known.told) != catalogs.shapes(told):
        # Else what was prepared on them for other columns fails, in blocks that cannot be made again.
        run_all([pool.drain for pools in router._state.pools.values() for pool in pools.endpoints])
    known.told, known.by, known.differences, known.read_at = told, name, {name: []}, monotonic()
    catalog = catalogs.make_catalog(name, told, known.built_in, router._state.topology)
    known.catalog = catalog if changes == known.changes else None
    return catalog


def are_alike(router: Router, bound: Bound, deadline: float, *, partial: bool = False) -> bool:
    """Raise `UnsupportedQuery` unless the shards have the same tables, functions and settings, as far as the statement
    touches them.

    False when they have others than the plan was made with: plan again.
    With `partial` a shard that does not answer is none that differs: it will be missing.
    """
    known, names = router._knowledge, bound.shards
    # What has been told before is not taken for a refusal.
    unknown = [name for name in names if name not in known.differences or _touching(known.differences[name], bound)]
    if not unknown:
        return True
    until = (monotonic() + deadline) / 2 if partial else deadline
    failing = [] if partial else [name for name in unknown if _is_failing(router, name)]
    # Without those that could not be reached last there is no answer: nobody else is asked before they are.
    for group in (failing, [name for name in unknown if name not in failing]):
        told_by_name, failures = _told_by(router, group, until)
        differing = _compared(router, told_by_name, bound)
        if failures and not (partial and all(isinstance(error, ShardError) for error in failures.values())):
            raise ScatterError(f"{len(failures)} of {len(names)} shards failed", failures=failures) from next(
                iter(failures.values())
            )
        if differing:
            _refuse_unlike(router, *differing, deadline)
            return False
    return True


def _is_failing(router: Router, name: str) -> bool:
    shard = router._state.pools.get(name)
    return shard is not None and shard.primary.is_failing


def _told_by(router: Router, names: Sequence[str], until: float) -> tuple[dict[str, Any], dict[str, BaseException]]:
    """What the shards say of their tables, and why some do not."""
    if not names:
        return {}, {}
    outcomes = run_all([bind_arguments(_told, router, name, until) for name in names])
    failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
    for error in failures.values():
        if not isinstance(error, ShardError | psycopg.Error):
            raise error
    return {name: told for name, (told, _) in zip(names, outcomes, strict=True) if name not in failures}, failures


def _touching(found: Sequence[Difference], bound: Bound) -> list[Difference]:
    touched = bound.plan.touched
    return [difference for difference in found if touched is None or touched.holds(difference)]


def _compared(router: Router, told_by_name: Mapping[str, Any], bound: Bound) -> tuple[str, list[Difference]] | None:
    """Keep what the shards have otherwise than the catalog; the first of them for which it matters, and what it is."""
    known = router._knowledge
    first = None
    for name, told in told_by_name.items():
        known.differences[name] = list(differences(router._state.topology, known.told, told))
        touching = _touching(known.differences[name], bound)
        if touching and first is None:
            first = name, touching
    return first


def _refuse_unlike(router: Router, name: str, differing: Sequence[Difference], deadline: float) -> None:
    """Raise `UnsupportedQuery` for a shard that differs; not when the one it was compared with has changed since."""
    known = router._knowledge
    by, before = known.by, known.told
    known.catalog = None
    if any(differences(router._state.topology, before, _ask_told(router, by, False, deadline))):
        forget_catalog(router)
        return
    raise UnsupportedQuery(
        f"shards {by} and {name} are not alike: {differing[0]}",
        detail="; ".join(map(str, differing[:8])) if len(differing) > 1 else None,
        hint="Make them alike, then ask again; a statement for one shard is answered meanwhile.",
    )


def mark_of(router: Router, name: str, deadline: float, readonly: bool) -> str:
    """What a shard's catalog is known by, as it is now."""
    tables = list(router._state.topology.placements)
    return str(_asked(router, name, catalogs.MARK_QUERY, [tables], deadline, readonly=readonly))


def is_like(router: Router, name: str, deadline: float, readonly: bool) -> bool:
    """Whether the tables and functions of a shard are those of the catalog in use."""
    told = _ask_told(router, name, readonly, deadline)
    known = router._knowledge
    return known.catalog is None or not any(differences(router._state.topology, known.told, told))


def _told(router: Router, name: str, deadline: float) -> Any:
    """What a shard says of its tables, to all who ask at the same time."""
    key = ("told", name, router._knowledge.changes)
    return _together(router, key, bind_arguments(_ask_told, router, name, False), deadline)


def _ask_told(router: Router, name: str, readonly: bool, deadline: float) -> Any:
    router._knowledge.asked = name
    tables = list(router._state.topology.placements)
    until = monotonic() + SEEN_SECONDS
    told = _asked(router, name, catalogs.CATALOG_QUERY, [tables], deadline, readonly=readonly)
    told["asked"] = set(tables)
    router._knowledge.seen[name, readonly] = Seen(until, told.pop("mark"))
    return told


def _asked(
    router: Router, name: str, query: str, params: Params | None, deadline: float, *, readonly: bool = False
) -> Any:
    timeout = max(0.0, deadline - monotonic())
    result = router.shard(name).execute(query, params, timeout=timeout, readonly=readonly, row_factory=tuple_row)
    transformer = result._transformer
    router._knowledge.adapted, router._knowledge.encoding = Adapted(transformer.adapters), transformer.encoding
    # As it came: what the callers' loaders make of a text is theirs.
    (told,) = next(iter(result.raw()))
    return json.loads(bytes(told or b"null").decode(transformer.encoding))


def refuse_cut(router: Router, keyspace: str, key: Any, query: Any, deadline: float) -> None:
    """Raise `InvalidKey` when a statement may insert into a table that stores this key without the spaces at its end.

    The row belongs where the stored key does, then, and not where the given one has led to.
    """
    parts = [found for tree in trees_of(query) or () for found in walk(tree)]
    if parts and not any(kind(part) in ("InsertStmt", "MergeStmt") for part in parts):
        return
    known, topology = catalog_of(router, deadline), router.topology
    named = {part.relname for part in parts if kind(part) == "RangeVar"}
    for table, columns in topology.keyspaces[keyspace].tables.items():
        if table not in known.tables or (named and table.split(".", 1)[1] not in named):
            continue
        for name, part in zip(columns, key_parts(tuple(key) if isinstance(key, list) else key), strict=True):
            column = known.tables[table].column(name)
            if column is not None and isinstance(part, str) and cut(part, varchar_length(column.type)) != part:
                raise InvalidKey(
                    f"{table.removeprefix('public.')} stores the key {shown(part)} without the spaces at its end",
                    detail=f"{name} is {column.type}: the row belongs where the key that is stored does.",
                    hint="Pass the key without them.",
                )


DDL_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
)
