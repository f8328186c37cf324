# Generated from _async/plans/schema_cache.py by tools/unasync.py: edit that one, then run `make sync`.
"""What the shards have told of their tables, functions and settings, kept as long as it holds.

DDL may come from anywhere, at any time. So each shard that is asked is verified again every two seconds, before the
statement is sent: one short query for a fingerprint that changes with the rows of the system catalogs that were read.
An answer can so be planned by a schema that is two seconds old, and not older.

Such a verification runs beside the call that has begun it, and is waited for a moment only: one that is late holds
nothing up, costs no connection, and tells the later calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import psycopg

from ..._runtime.deadlines import Deadline, deadline_after, halfway
from ..._runtime.single_flight import SingleFlight, own
from ..._runtime.tasks import run_all, sleep
from ...control.alike_settings import AlikeSettings
from ...errors import DeadlineExceeded, InvalidKey, ScatterError, ShardError, UnknownShard, UnsupportedQuery
from ...keys import cut, key_parts, shown, varchar_length
from ...query.analysis import purity
from ...query.analysis.alike import Difference, differences
from ...query.analysis.catalog import Catalog
from ...query.analysis.catalog_reading import make_catalog, shapes, with_bodies, with_singles
from ...query.plans.bound import Bound
from ...query.text.calls import trees_of
from ...query.text.statement import kind, walk
from .numbers import Numbers
from .schema_reader import Fingerprint, SchemaReader

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

T = TypeVar("T")

# Seconds after which a catalog is read again before something is refused: DDL may have made it possible.
_FRESH = 1.0
# The longest that one shard is waited for when another could tell as much.
_PATIENCE = 0.5
# Seconds between two attempts to learn what one who had less time has not learned.
_PAUSE = 0.02
# Seconds for which a verification holds; the longest that it may hold up a call, and that it may take.
_VERIFIED_SECONDS = 2.0
_VERIFYING_PATIENCE = 0.5
_VERIFYING_LONGEST = 1.0


class Verified(NamedTuple):
    """The fingerprint of a shard's schema, and until when it is believed, in monotonic seconds.

    None of a shard that has not told yet.
    """

    until: float
    fingerprint: Fingerprint | None


class SchemaCache:
    """One shard's catalog, and which others have been found to be like it.

    `generation` is another whenever something was found to have changed: what was made by an older one is void.
    """

    def __init__(self, fleet: Fleet, alike: AlikeSettings) -> None:
        self._fleet = fleet
        self._alike = alike
        self.reader = SchemaReader(fleet)
        self.catalog: Catalog | None = None
        self.facts: Mapping[str, Any] = {}
        self.source: str = ""
        self.read_at = float("-inf")
        self.built_in: list[Any] | None = None
        # What each of the shards that have been compared has otherwise.
        self.differences: dict[str, list[Difference]] = {}
        # How often the catalog was forgotten: what was begun to be read before is not believed after.
        self.generation = 0
        # By shard, for statements that may be read from a replica and for others.
        self._verified: dict[tuple[str, bool], Verified] = {}
        # Hundreds of callers may want to know the same thing at once: when a router begins, and after DDL.
        self._flights = SingleFlight()
        self.numbers = Numbers(fleet)
        # Whether something has changed, and no shard was compared with what it had told before.
        self._in_doubt = False

    @property
    def settings(self) -> Mapping[str, str | None]:
        """Those of the session that has told of the catalog."""
        return self.facts.get("settings") or {}

    def start_afresh(self) -> None:
        """In a forked child, which has not got the threads."""
        self._flights = SingleFlight()
        self.numbers.start_afresh()

    def stop(self) -> None:
        """Let nobody wait for what is being asked any more."""
        self._flights.stop()

    def changed(self) -> None:
        """Read it again before the next statement is planned: DDL was run, or what it says turned out to be wrong."""
        self.generation += 1
        self.catalog = None
        self._in_doubt = True

    def check_settings(self, settings_by_shard: Mapping[str, Any]) -> bool:
        """As `AlikeSettings.check`, with those of the plans; where it is false, statements are planned anew."""
        alike = self._alike.check(settings_by_shard, self.settings, self.source)
        if not alike:
            self.changed()
        return alike

    def may_write(self, query: Any) -> bool:
        """Whether a statement may write; told by its text and the catalog, if that is self. No I/O."""
        trees = trees_of(query)
        return trees is None or any(purity.may_write(tree, self.catalog) for tree in trees)

    def current(self, deadline: Deadline) -> Catalog:
        """The catalog of the first shard that answers."""
        if self.catalog is not None and set(self._fleet.snapshot.topology.placements) == self.facts.get("asked"):
            return self.catalog
        key = ("catalog", self.generation)
        return self._together(key, self._read_catalog, deadline)

    def _read_catalog(self, deadline: Deadline) -> Catalog:
        changes = self.generation
        names = self._fleet.in_turn()
        for number, name in enumerate(names):
            left = deadline - monotonic()
            until = deadline if number == len(names) - 1 else deadline_after(min(_PATIENCE, left / 3))
            try:
                told = self._ask_facts(name, False, until)
                if self.built_in is None:
                    self.built_in = self.reader.built_in(name, until)
            except ShardError:
                if number == len(names) - 1 or monotonic() >= deadline:
                    raise
            else:
                break
        assert self.built_in is not None
        if self.facts and shapes(self.facts) != shapes(told):
            # Else what was prepared on them for other columns fails, in blocks that cannot be made again.
            run_all([pool.drain for pools in self._fleet.snapshot.shards.values() for pool in pools.endpoints])
        self.facts, self.source, self.differences, self.read_at = told, name, {name: []}, monotonic()
        catalog = make_catalog(name, told, self.built_in, self._fleet.snapshot.topology)
        self.catalog = catalog if changes == self.generation else None
        return catalog

    def refreshed(self, deadline: Deadline) -> bool:
        """Read the catalog again; not when that has just been done and nothing has changed since."""
        asked, changed = monotonic(), False
        while True:
            begun, has_changed = self._together(("refresh",), self._refresh, deadline)
            changed = changed or has_changed
            if begun >= asked:
                return changed

    def _refresh(self, deadline: Deadline) -> tuple[float, bool]:
        begun = monotonic()
        if begun - self.read_at < _FRESH and self.source in self._fleet.snapshot.shards:
            before = self._verified[self.source, False].fingerprint
            if self.reader.fingerprint(self.source, deadline, readonly=False) == before:
                return begun, False
        self.changed()
        self.current(deadline)
        return begun, True

    def are_alike(self, bound: Bound, deadline: Deadline, *, partial: bool = False) -> bool:
        """Raise `UnsupportedQuery` unless the shards have the same tables, functions and settings.

        That is, as far as the statement touches them.

        False when they have others than the plan was made with: plan again.
        With `partial` a shard that does not answer is none that differs: it will be missing.
        """
        names = bound.shards
        # What has been told before is not taken for a refusal.
        unknown = [name for name in names if name not in self.differences or _touching(self.differences[name], bound)]
        if not unknown:
            return True
        until = halfway(deadline) if partial else deadline
        failing = [] if partial else [name for name in unknown if self._is_failing(name)]
        # Without those that could not be reached last there is no answer: nobody else is asked before they are.
        for group in (failing, [name for name in unknown if name not in failing]):
            told_by_name, failures = self._told_by(group, until)
            if any(isinstance(error, UnknownShard) for error in failures.values()):
                return False
            differing = self._compared(told_by_name, bound)
            if failures and not (partial and all(isinstance(error, ShardError) for error in failures.values())):
                raise ScatterError(f"{len(failures)} of {len(names)} shards failed", failures=failures) from next(
                    iter(failures.values())
                )
            if differing:
                self._refuse_unlike(*differing, deadline)
                return False
        return True

    def _is_failing(self, name: str) -> bool:
        shard = self._fleet.snapshot.shards.get(name)
        return shard is not None and shard.primary.is_failing

    def _told_by(self, names: Sequence[str], until: Deadline) -> tuple[dict[str, Any], dict[str, BaseException]]:
        """What the shards say of their tables, and why some do not."""
        if not names:
            return {}, {}
        outcomes = run_all([bind_arguments(self.facts_of, name, until) for name in names])
        failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
        for error in failures.values():
            if not isinstance(error, ShardError | psycopg.Error | UnknownShard):
                raise error
        return {name: told for name, (told, _) in zip(names, outcomes, strict=True) if name not in failures}, failures

    def _compared(self, told_by_name: Mapping[str, Any], bound: Bound) -> tuple[str, list[Difference]] | None:
        """Keep what the shards have otherwise than the catalog; gives the first for which it matters, and what."""
        first = None
        for name, told in told_by_name.items():
            self.differences[name] = list(differences(self._fleet.snapshot.topology, self.facts, told))
            touching = _touching(self.differences[name], bound)
            if touching and first is None:
                first = name, touching
        return first

    def _refuse_unlike(self, name: str, differing: Sequence[Difference], deadline: Deadline) -> None:
        """Raise `UnsupportedQuery` for a shard that differs, unless the one it was compared with has changed."""
        by, before = self.source, self.facts
        self.catalog = None
        if any(differences(self._fleet.snapshot.topology, before, self._ask_facts(by, False, deadline))):
            self.changed()
            return
        raise UnsupportedQuery(
            f"shards {by} and {name} are not alike: {differing[0]}",
            detail="; ".join(map(str, differing[:8])) if len(differing) > 1 else None,
            hint="Make them alike, then ask again; a statement for one shard is answered meanwhile.",
        )

    def _is_like(self, name: str, deadline: Deadline, readonly: bool) -> bool:
        """Whether the tables and functions of a shard are those of the catalog in use."""
        told = self._ask_facts(name, readonly, deadline)
        if self.catalog is None:
            return True
        differing = list(differences(self._fleet.snapshot.topology, self.facts, told))
        if not readonly:
            # It is not asked once more whether it is like the others; a replica may be behind.
            self.differences[name] = differing
        return not differing

    def facts_of(self, name: str, deadline: Deadline) -> Any:
        """What a shard says of its tables, to all who ask at the same time."""
        key = ("told", name, self.generation)
        return self._together(key, bind_arguments(self._ask_facts, name, False), deadline)

    def add_shard(self, catalog: Catalog, shard: str, deadline: Deadline) -> None:
        """Have the catalog know the single tables of a shard, too."""
        told = self.facts_of(shard, deadline)
        if self.catalog is catalog:
            self.catalog = with_singles(catalog, shard, told, self._fleet.topology)

    def add_bodies(self, catalog: Catalog, names: Set[str], deadline: Deadline) -> None:
        """Have the catalog know the bodies of these functions, too."""
        rows = self.reader.bodies(self._fleet.in_turn()[0], names, deadline)
        if self.catalog is catalog:
            self.catalog = with_bodies(catalog, names, rows)

    def _ask_facts(self, name: str, readonly: bool, deadline: Deadline) -> Any:
        until = monotonic() + _VERIFIED_SECONDS
        found, mark = self.reader.facts(name, deadline, readonly=readonly)
        before = self._verified.get((name, readonly))
        self._verified[name, readonly] = Verified(until, mark)
        self._look_at_sequences(mark, None if before is None else before.fingerprint)
        return found

    def _together(self, key: tuple[Any, ...], function: Callable[[Deadline], T], deadline: Deadline) -> T:
        """What `function(deadline)` gives, once for all who ask at the same time, each within its own deadline."""
        while True:
            # Not less than what is usual: of callers who have little time each none would ever get to the end of it.
            until = max(deadline, self._fleet.deadline(None))
            run = self._flights.run((*key, self._fleet.snapshot), bind_arguments(function, until))
            outcome = run.wait(deadline)
            self._fleet.check_usable()
            if outcome is None:
                shard = self.reader.asked
                raise DeadlineExceeded(f"the deadline passed before shard {shard} told of its tables", shard=shard)
            value, error = outcome
            if error is None:
                return cast("T", value)
            if not isinstance(error, DeadlineExceeded) or monotonic() + _PAUSE >= deadline:
                raise own(error) from error
            # It was begun by one who had less time.
            sleep(_PAUSE)

    def refuse_cut(self, keyspace: str, key: Any, query: Any, deadline: Deadline) -> None:
        """Raise `InvalidKey` when a statement may insert this key where it is stored without the spaces at its end.

        The row belongs where the stored key does, then, and not where the given one has led to.
        """
        parts = [found for tree in trees_of(query) or () for found in walk(tree)]
        if parts and not any(kind(part) in ("InsertStmt", "MergeStmt") for part in parts):
            return
        catalog, topology = self.current(deadline), self._fleet.topology
        named = {part.relname for part in parts if kind(part) == "RangeVar"}
        for table, columns in topology.keyspaces[keyspace].tables.items():
            if table not in catalog.tables or (named and table.split(".", 1)[1] not in named):
                continue
            for name, part in zip(columns, key_parts(tuple(key) if isinstance(key, list) else key), strict=True):
                column = catalog.tables[table].column(name)
                if column is not None and isinstance(part, str) and cut(part, varchar_length(column.type)) != part:
                    raise InvalidKey(
                        f"{table.removeprefix('public.')} stores the key {shown(part)} without the spaces at its end",
                        detail=f"{name} is {column.type}: the row belongs where the key that is stored does.",
                        hint="Pass the key without them.",
                    )

    def is_due(self, shard: str, readonly: bool) -> bool:
        """Whether it has to be verified that the shard's schema is what it was."""
        verified = self._verified.get((shard, readonly))
        return verified is None or monotonic() >= verified.until

    def is_fresh(self, names: Sequence[str], deadline: Deadline, *, readonly: bool = False) -> bool:
        """False when one of the shards has changed its tables or functions since they were read: plan again then.

        A shard that does not answer is none that has changed: the call itself will find what is wrong with it.
        """
        now = monotonic()
        runs = []
        for name in names:
            before = self._verified.get((name, readonly))
            if before is not None:
                if now < before.until:
                    continue
                # Written first: of those who come meanwhile, or after one who gets no answer, nobody looks again.
                self._verified[name, readonly] = Verified(now + _VERIFIED_SECONDS, before.fingerprint)
            look = bind_arguments(self._has_changed, name, readonly, None if before is None else before.fingerprint)
            runs.append(self._flights.run(("look", name, readonly, self._fleet.snapshot), look))
        until = min(deadline, deadline_after(min(_VERIFYING_PATIENCE, (deadline - now) / 3)))
        has_changed = False
        for run in runs:
            changed, error = run.wait(until) or (False, None)
            if isinstance(error, UnknownShard):
                # A reload has taken it away.
                changed, error = True, None
            if error is not None and not isinstance(error, ShardError | psycopg.Error):
                raise own(error) from error
            has_changed = has_changed or changed
        return not has_changed

    def _look_at_sequences(self, mark: Fingerprint, before: Fingerprint | None) -> None:
        """What was drawn from sequences that may have been restarted since may come again."""
        if self._in_doubt if before is None else mark.sequences != before.sequences:
            self.numbers.drop()
        self._in_doubt = False

    def _has_changed(self, name: str, readonly: bool, before: Fingerprint | None) -> bool:
        until = deadline_after(_VERIFYING_LONGEST)
        if before is None:
            # Nothing to compare with but the catalog of another shard, which may be older.
            try:
                changed = not self._is_like(name, until, readonly)
            except (ShardError, psycopg.Error):
                self._verified[name, readonly] = Verified(deadline_after(_VERIFIED_SECONDS), None)
                raise
        else:
            mark = self.reader.fingerprint(name, until, readonly=readonly)
            self._verified[name, readonly] = Verified(deadline_after(_VERIFIED_SECONDS), mark)
            changed = mark != before
            self._look_at_sequences(mark, before)
        if changed:
            self.changed()
        return changed


def _touching(found: Sequence[Difference], bound: Bound) -> list[Difference]:
    touched = bound.plan.touched
    return [difference for difference in found if touched is None or touched.holds(difference)]
