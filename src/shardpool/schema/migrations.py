"""`router.migrations`: the schema of the whole fleet, changed as safely as that of one server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import BadMigration, summary
from ..report import Report as FleetReport
from . import fleet
from . import plan as planning
from .baseline import TABLES, TOOLS
from .drift import Drift
from .execution import Execution, checked, failure
from .files import Folder, read_folder
from .locks import Limits
from .plan import MigrationPlan, Obstacle
from .provision import provision
from .reading import read_states
from .repair import Repair, repair
from .report import Happened, MigrationReport, Progress
from .rollout import Rollout
from .runner import Execute
from .session import ShardSession
from .state import ShardState
from .status import Status, status

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

DEFAULT_FOLDERS = ("migrations", "db/migrations")


def default_folder() -> Path:
    """`migrations`, or dbmate's own when only that is there."""
    for name in DEFAULT_FOLDERS:
        if Path(name).is_dir():
            return Path(name)
    return Path(DEFAULT_FOLDERS[0])


def _silent(happened: Happened) -> None: ...


class AsyncMigrations:
    """The migrations of a folder on the shards of a router; made by `router.migrations`.

    `folder` is `migrations`, or `db/migrations` when only that is there, unless a method is given another one.
    `progress` is called with a `Happened` for each thing that happens, in the order in which it does on each shard.
    """

    def __init__(self, fleet: AsyncFleet, execute: Execute) -> None:
        self._fleet = fleet
        self._execution = Execution(fleet, execute)

    def folder(self, folder: str | Path | None = None) -> Folder:
        """The files; raises `BadMigration` for one that cannot be read. Reads the disk, asks no shard."""
        return read_folder(folder or default_folder())

    async def status(
        self, folder: str | Path | None = None, *, shards: Iterable[str] | None = None, timeout: float = 10.0
    ) -> Status:
        """Every migration on every shard; a shard that does not answer in `timeout` seconds is in `unreached`."""
        files = self.folder(folder)
        return status(files, self._fleet.topology, await self._states(shards, timeout))

    async def plan(
        self,
        folder: str | Path | None = None,
        *,
        to: str | None = None,
        shards: Iterable[str] | None = None,
        allow_missing: bool = False,
        expand_only: bool = False,
        timeout: float = 10.0,
    ) -> MigrationPlan:
        """What `up` would do, and what would keep it from that. Reads only."""
        files = self.folder(folder)
        states = await self._states(shards, timeout)
        made = planning.plan_up(
            files, self._fleet.topology, states, to=to, allow_missing=allow_missing, expand_only=expand_only
        )
        return _with_unreached(checked(made), states)

    async def up(
        self,
        folder: str | Path | None = None,
        *,
        to: str | None = None,
        shards: Iterable[str] | None = None,
        allow_missing: bool = False,
        expand_only: bool = False,
        rollout: Rollout = Rollout(),  # noqa: B008 - a frozen value
        limits: Limits = Limits(),  # noqa: B008
        timeout: float = 10.0,
        progress: Progress = _silent,
    ) -> MigrationReport:
        """Run what is pending, up to the migration `to`, on all shards or on those named.

        The canary first, then waves; a migration of the phase `contract` begins when everything earlier is on all of
        its shards. Running it again goes on where it ended, however it ended. `timeout` is for the first look at the
        shards; what runs is bounded by `limits`.

        Raises `BadMigration` before anything is sent, `MigrationError` with the `report` when it did not get to its end
        on every shard. A shard that cannot be reached is a failure of that shard.
        """
        files = self.folder(folder)
        begun = monotonic()
        names = self._names(shards)
        rollout.check(names)
        states = await self._states(names, timeout)
        made = planning.plan_up(
            files, self._fleet.topology, states, to=to, allow_missing=allow_missing, expand_only=expand_only
        )
        return await self._execution.run(made, states, rollout, limits, progress, begun)

    async def down(
        self,
        folder: str | Path | None = None,
        *,
        count: int = 1,
        to: str | None = None,
        shards: Iterable[str] | None = None,
        rollout: Rollout = Rollout(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
        timeout: float = 10.0,
        progress: Progress = _silent,
    ) -> MigrationReport:
        """Take back the last `count` migrations, or all that are later than `to`, each on the shards that have it.

        Raises as `up` does; `BadMigration` also for one without a `-- migrate:down`.
        """
        files = self.folder(folder)
        begun = monotonic()
        names = self._names(shards)
        rollout.check(names)
        states = await self._states(names, timeout)
        made = planning.plan_down(files, self._fleet.topology, states, count=count, to=to)
        return await self._execution.run(made, states, rollout, limits, progress, begun)

    async def plan_down(
        self,
        folder: str | Path | None = None,
        *,
        count: int = 1,
        to: str | None = None,
        shards: Iterable[str] | None = None,
        timeout: float = 10.0,
    ) -> MigrationPlan:
        """What `down` would do. Reads only."""
        files = self.folder(folder)
        states = await self._states(shards, timeout)
        made = planning.plan_down(files, self._fleet.topology, states, count=count, to=to)
        return _with_unreached(checked(made), states)

    # -- the fleet -----------------------------------------------------------------------------------------------

    async def drift(
        self,
        *,
        reference: str | None = None,
        shards: Iterable[str] | None = None,
        ignore: Sequence[str] = (),
        timeout: float = 30.0,
    ) -> Drift:
        """In which objects the schemas of the shards differ: from `reference`, or from what most shards have.

        Single tables are left out, and what the patterns of `ignore` match (of tables and of names, such as `tmp_*`).
        """
        if reference is not None:
            self._fleet.topology.shard(reference)
        return await fleet.drift(self._fleet, self._names(shards), reference, ignore, timeout)

    async def verify(
        self, folder: str | Path | None = None, *, shards: Iterable[str] | None = None, timeout: float = 30.0
    ) -> FleetReport:
        """Files against records, every `-- shard-verify:` query of what is applied, and no index that is invalid."""
        return await fleet.verify(self._fleet, self.folder(folder), self._names(shards), timeout)

    async def baseline(
        self,
        folder: str | Path | None = None,
        *,
        tool: str | None = None,
        to: str | None = None,
        shards: Iterable[str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        timeout: float = 10.0,
    ) -> dict[str, list[str]]:
        """Mark migrations as applied without running them: {shard: versions that were marked}.

        Without `tool` all files, up to `to`. With `dbmate` the files that its table names; with `alembic` or `django`
        their history is taken over beside the files, of which those up to `to` are marked too. The shards have to be at
        the same place in that history.
        """
        if tool is not None and tool not in TOOLS:
            raise BadMigration(f"{tool} is not known", hint=f"Known: {', '.join(TOOLS)}.")
        files = self.folder(folder) if tool in (None, "dbmate") or to is not None else None
        return await fleet.baseline(self._fleet, files, self._names(shards), tool, to, limits, timeout)

    async def repair(
        self,
        wanted: Repair,
        folder: str | Path | None = None,
        *,
        shards: Iterable[str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
    ) -> dict[str, list[str]]:
        """Put records and invalid indexes right: {shard: what was done}."""
        files = self.folder(folder) if wanted.accept or wanted.step_done or wanted.step_again else Folder("", ())
        done: dict[str, list[str]] = {}

        async def work(session: ShardSession) -> None:
            done[session.shard] = await repair(session, files, wanted)

        names = self._names(shards)
        await fleet.on_all(self._fleet, names, limits, work, "repair")
        return {name: done[name] for name in names}

    async def execute(
        self,
        command: Sequence[str],
        *,
        shards: Iterable[str] | None = None,
        rollout: Rollout = Rollout(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
        progress: Progress = _silent,
    ) -> MigrationReport:
        """Run a program once for each shard, with `DATABASE_URL` set; its lines come as `output`.

        The shard's lock is held meanwhile. Raises `MigrationError` with the `report` when it exited with another code
        than 0 somewhere.
        """
        names = self._names(shards)
        rollout.check(names)
        self._fleet.check_usable()
        report = await fleet.execute(self._fleet, names, command, rollout, limits, progress, self._execution.drain)
        if not report.ok:
            raise failure(report)
        return report

    async def provision(
        self,
        shard: str,
        *,
        like: str | None = None,
        pg_dump: str | None = None,
        ignore: Sequence[str] = (),
        limits: Limits = Limits(),  # noqa: B008
    ) -> int:
        """Make a new shard, which has nothing but the schema of `init`, like another; all or nothing.

        Schema, rows of reference tables and records of migrations come from `like` (default: the first other shard),
        by the program `pg_dump` (default: that on the PATH), and are compared. Gives the number of rows copied.
        """
        names = self._names([shard])
        others = [name for name in self._fleet.topology.shards if name != shard]
        reference = like or next(iter(others), "")
        if reference not in others:
            raise BadMigration(f"no other shard {reference} to be like".replace("  ", " "))
        self._execution.refuse_while_rows_move()
        copied = 0

        async def work(session: ShardSession) -> None:
            nonlocal copied
            copied = await provision(self._fleet, session, reference, pg_dump, [*TABLES, *ignore])

        await fleet.on_all(self._fleet, names, limits, work, "provisioning")
        await self._execution.drain(shard)
        return copied

    async def _states(self, shards: Iterable[str] | None, timeout: float) -> dict[str, ShardState]:
        self._fleet.check_usable()
        return await read_states(self._fleet, self._names(shards), timeout)

    def _names(self, shards: Iterable[str] | None) -> tuple[str, ...]:
        """The shards that are meant, in the order of the topology; raises `UnknownShard`."""
        topology = self._fleet.topology
        if shards is None:
            return tuple(topology.shards)
        wanted = {topology.shard(name).name for name in shards}
        return tuple(name for name in topology.shards if name in wanted)


def _with_unreached(made: MigrationPlan, states: Mapping[str, ShardState]) -> MigrationPlan:
    unreached = [Obstacle(summary(state.error), name) for name, state in states.items() if state.error is not None]
    return MigrationPlan(made.direction, made.stages, (*made.problems, *unreached))
