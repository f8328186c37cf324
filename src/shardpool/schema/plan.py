"""What is to be done on each shard: the files against what the shards say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import UnknownTable
from ..topology import Single, Topology
from . import rows
from .files import Folder, Migration
from .state import Direction, MigrationRow, ShardState
from .steps import prefix_digest, steps


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nothing may be done before somebody has looked; of one shard, or of all when `shard` is empty."""

    message: str
    shard: str = ""
    version: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.shard}: {self.message}" if self.shard else self.message


@dataclass(frozen=True, slots=True)
class Stage:
    """Migrations that go out together: the next stage begins when this one is on all of its shards."""

    shards_by_version: Mapping[str, tuple[str, ...]]
    migrations: tuple[Migration, ...]

    def of(self, shard: str) -> tuple[Migration, ...]:
        return tuple(m for m in self.migrations if shard in self.shards_by_version[m.version])

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard for names in self.shards_by_version.values() for shard in names))


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """Stages in order, and the problems that keep them from being run."""

    direction: Direction
    stages: tuple[Stage, ...] = ()
    problems: tuple[Obstacle, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.stages


def shards_of(migration: Migration, topology: Topology) -> tuple[str, ...]:
    """The shards that a migration is for; none for one whose shards are not in the topology any more."""
    if not migration.only:
        return tuple(topology.shards)
    names = {shard for pattern in migration.only for shard in _matched(pattern, topology)}
    return tuple(name for name in topology.shards if name in names)


_KNOWN = "It is the name of a shard, a pattern such as s*, keyspace:NAME or table:NAME."


def _matched(pattern: str, topology: Topology) -> set[str]:
    what, colon, name = pattern.partition(":")
    if colon and what == "keyspace":
        return set(topology.keyspaces[name].owning_shards) if name in topology.keyspaces else set()
    if colon and what == "table":
        try:
            placement = topology.placement(name)
        except UnknownTable:
            return set()
        return {placement.shard} if isinstance(placement, Single) else set(topology.shards)
    return {shard for shard in topology.shards if fnmatchcase(shard, pattern)}


def plan_up(
    folder: Folder,
    topology: Topology,
    states: Mapping[str, ShardState],
    *,
    to: str | None = None,
    allow_missing: bool = False,
    expand_only: bool = False,
) -> MigrationPlan:
    """What is pending on the shards that `states` names, up to the migration `to`."""
    wanted = _up_to(folder, to)
    places = _places(folder)
    problems = [*_sum_problems(folder), *_only_problems(folder, places, topology, states)]
    for state in states.values():
        problems.extend(_state_problems(folder, places, topology, state, wanted, allow_missing))
    pending: dict[str, tuple[str, ...]] = {}
    for migration in wanted:
        shards = tuple(
            name
            for name in shards_of(migration, topology)
            if name in states and not _is_applied(states[name], migration.version)
        )
        if shards:
            pending[migration.version] = shards
    if expand_only:
        pending = _before_contract(wanted, pending)
    problems.extend(_row_problems([m for m in wanted if m.version in pending], topology, states))
    return MigrationPlan("up", tuple(_stages([m for m in wanted if m.version in pending], pending)), tuple(problems))


def _places(folder: Folder) -> dict[str, int]:
    """Where each version stands in the folder: to look it up there again and again takes minutes in a long history."""
    return {migration.version: place for place, migration in enumerate(folder.migrations)}


def _up_to(folder: Folder, to: str | None) -> tuple[Migration, ...]:
    if to is None:
        return folder.migrations
    return folder.migrations[: folder.migrations.index(folder.find(to)) + 1]


def _before_contract(wanted: Sequence[Migration], pending: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    kept: dict[str, tuple[str, ...]] = {}
    for migration in wanted:
        if migration.version in pending and migration.phase == "contract":
            break
        if migration.version in pending:
            kept[migration.version] = pending[migration.version]
    return kept


def _stages(migrations: Sequence[Migration], pending: Mapping[str, tuple[str, ...]]) -> Iterable[Stage]:
    """What takes away is begun nowhere before everything earlier is everywhere."""
    group: list[Migration] = []
    for migration in migrations:
        if group and any(one.phase == "contract" or one.routed for one in (migration, group[-1])):
            yield _stage(group, pending)
            group = []
        group.append(migration)
    if group:
        yield _stage(group, pending)


def _stage(group: Sequence[Migration], pending: Mapping[str, tuple[str, ...]]) -> Stage:
    return Stage({m.version: pending[m.version] for m in group}, tuple(group))


def _is_applied(state: ShardState, version: str) -> bool:
    row = state.rows.get(version)
    return row is not None and row.is_applied


def _sum_problems(folder: Folder) -> Iterable[Obstacle]:
    for problem in folder.sum_problems:
        yield Obstacle(
            f"migrations.sum: {problem}", hint="Look at what was changed, then: shardpool migrate lint --write-sum"
        )


def _only_problems(
    folder: Folder, places: Mapping[str, int], topology: Topology, states: Mapping[str, ShardState]
) -> Iterable[Obstacle]:
    """Patterns of new migrations that mean no shard. In an old one it may be a shard that has been removed."""
    applied = {version for state in states.values() for version, row in state.rows.items() if row.is_applied}
    newest = max((places[version] for version in applied if version in places), default=-1)
    for migration in folder.migrations[newest + 1 :]:
        for pattern in migration.only:
            if not _matched(pattern, topology):
                yield Obstacle(
                    f"{migration.file}: only={pattern} means no shard", version=migration.version, hint=_KNOWN
                )


def _row_problems(
    migrations: Sequence[Migration], topology: Topology, states: Mapping[str, ShardState]
) -> Iterable[Obstacle]:
    """Rows that every shard would write anew; and files that the router runs, without all of their shards."""
    for migration in migrations:
        shards = shards_of(migration, topology)
        for problem in rows.row_problems(migration, topology, len(shards)):
            yield Obstacle(
                f"{migration.file}:{problem.line}: {problem.message}", version=migration.version, hint=rows.HINT
            )
        if migration.routed and (migration.only or not set(shards) <= states.keys()):
            yield Obstacle(
                f"{migration.file} is run by the router, which takes all shards",
                version=migration.version,
                hint="Leave out --shards, and only= in the file.",
            )


def _state_problems(
    folder: Folder,
    places: Mapping[str, int],
    topology: Topology,
    state: ShardState,
    wanted: Sequence[Migration],
    allow_missing: bool,
) -> Iterable[Obstacle]:
    for row in state.rows.values():
        yield from row_problems(state.shard, row, _at(folder, places, row.version))
    applied = [row.version for row in state.rows.values() if row.is_applied and row.version in places]
    newest = max((places[version] for version in applied), default=-1)
    if allow_missing:
        return
    for migration in wanted:
        late = places[migration.version] < newest and migration.version not in state.rows
        if late and state.shard in shards_of(migration, topology):
            yield Obstacle(
                f"{migration.label} is not applied, and {folder.migrations[newest].label}, which is later, is",
                state.shard,
                migration.version,
                hint="Run it all the same with --allow-missing, or give it a later version.",
            )


def row_problems(shard: str, row: MigrationRow, migration: Migration | None) -> Iterable[Obstacle]:
    """In what a row does not fit its file."""
    if row.origin is not None:
        return
    if migration is None:
        what = f"{row.version}_{row.name} is {row.describe} here, and its file is not in the folder"
        yield Obstacle(what, shard, row.version, hint="Bring the file back, or: shardpool migrate repair --forget")
    elif row.direction == "down" and not row.is_applied:
        what = f"{migration.label} was being taken back: {row.describe}"
        yield Obstacle(what, shard, row.version, hint="Run `shardpool migrate down` again: it goes on.")
    elif row.checksum is not None and row.checksum != migration.checksum and not may_differ(row, migration):
        what = f"{migration.label} was changed after it was {'applied' if row.is_applied else 'begun'}"
        yield Obstacle(
            what,
            shard,
            row.version,
            hint=f"Set the file back, or take it as it is: shardpool migrate repair --accept {row.version}",
        )


def may_differ(row: MigrationRow, migration: Migration) -> bool:
    """Whether a file that was not finished may have been mended: not in the steps that are done."""
    if row.is_applied:
        return False
    if row.steps_done == 0 and not row.step_begun:
        return True
    if migration.up.transactional or row.done_digest is None:
        return False
    return prefix_digest(steps(migration.file, migration.up), row.steps_done + row.step_begun) == row.done_digest


def plan_down(
    folder: Folder,
    topology: Topology,
    states: Mapping[str, ShardState],
    *,
    count: int = 1,
    to: str | None = None,
) -> MigrationPlan:
    """Taking back the last `count` migrations of the fleet, or all that are later than `to`, the newest first."""
    begun = {
        version
        for state in states.values()
        for version, row in state.rows.items()
        if row.is_applied or row.direction == "down"
    }
    there = [migration for migration in reversed(folder.migrations) if migration.version in begun]
    places = _places(folder)
    if to is not None:
        place = places[folder.find(to).version]
        there = [migration for migration in there if places[migration.version] > place]
    else:
        there = there[:count]
    meant = {migration.version for migration in there}
    problems = [
        problem
        for state in states.values()
        for row in state.rows.values()
        if row.version in meant and row.direction == "up"
        for problem in row_problems(state.shard, row, _at(folder, places, row.version))
    ]
    for migration in there:
        if migration.down is None or not statements_in(migration):
            problems.append(Obstacle(f"{migration.label} has no `-- migrate:down`", version=migration.version))
        problems.extend(
            Obstacle(f"{migration.label} is not whole: {row.describe}", name, hint="Run `shardpool migrate up` first.")
            for name, state in states.items()
            if (row := state.rows.get(migration.version)) is not None
            and not row.is_applied
            and row.direction == "up"
            and (row.steps_done or row.step_begun)
        )
    shards = {
        migration.version: tuple(
            name
            for name, state in states.items()
            if (row := state.rows.get(migration.version)) is not None and (row.is_applied or row.direction == "down")
        )
        for migration in there
    }
    stages = tuple(Stage({m.version: shards[m.version]}, (m,)) for m in there)
    return MigrationPlan("down", stages, tuple(problems))


def statements_in(migration: Migration) -> bool:
    """Whether there is something to be taken back."""
    from .steps import statement_count

    return migration.down is not None and statement_count(migration.down) > 0


def _at(folder: Folder, places: Mapping[str, int], version: str) -> Migration | None:
    return folder.migrations[places[version]] if version in places else None
