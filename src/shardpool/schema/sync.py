"""The migrations of a sync router: the same methods, each in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .._async.parts import AsyncParts, assembled
from .._async.sql import dispatch
from .._call import Call
from ..report import Report as FleetReport
from ..result import Result
from .drift import Drift
from .files import Folder
from .migrations import AsyncMigrations
from .plan import MigrationPlan
from .report import MigrationReport
from .status import Status

if TYPE_CHECKING:
    from .._sync.fleet.fleet import Fleet

T = TypeVar("T")

# Seconds that closing the fleet of a call waits for its work in the background to end.
_CLOSE_SECONDS = 5.0


class Migrations:
    """What `AsyncMigrations` does, for a sync router: see there for the arguments.

    A call opens a fleet of the same topology and passwords for its time, and drains this router's pools where something
    was changed. `configure` and `connection_class` of the router are not used: they are of its own kind.
    """

    def __init__(self, fleet: Fleet, execute: object = None) -> None:
        """`execute` is that of the sync router; the fleet that is opened for a call has its own."""
        self._fleet = fleet

    def folder(self, folder: str | Path | None = None) -> Folder:
        """See `AsyncMigrations.folder`."""
        return self._call(_folder, folder)

    def status(self, *args: Any, **kwargs: Any) -> Status:
        """See `AsyncMigrations.status`."""
        return self._call(AsyncMigrations.status, *args, **kwargs)

    def plan(self, *args: Any, **kwargs: Any) -> MigrationPlan:
        """See `AsyncMigrations.plan`."""
        return self._call(AsyncMigrations.plan, *args, **kwargs)

    def up(self, *args: Any, **kwargs: Any) -> MigrationReport:
        """See `AsyncMigrations.up`."""
        return self._changing(AsyncMigrations.up, *args, **kwargs)

    def down(self, *args: Any, **kwargs: Any) -> MigrationReport:
        """See `AsyncMigrations.down`."""
        return self._changing(AsyncMigrations.down, *args, **kwargs)

    def drift(self, *args: Any, **kwargs: Any) -> Drift:
        """See `AsyncMigrations.drift`."""
        return self._call(AsyncMigrations.drift, *args, **kwargs)

    def verify(self, *args: Any, **kwargs: Any) -> FleetReport:
        """See `AsyncMigrations.verify`."""
        return self._call(AsyncMigrations.verify, *args, **kwargs)

    def baseline(self, *args: Any, **kwargs: Any) -> dict[str, list[str]]:
        """See `AsyncMigrations.baseline`."""
        return self._call(AsyncMigrations.baseline, *args, **kwargs)

    def repair(self, *args: Any, **kwargs: Any) -> dict[str, list[str]]:
        """See `AsyncMigrations.repair`."""
        return self._changing(AsyncMigrations.repair, *args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> MigrationReport:
        """See `AsyncMigrations.execute`."""
        return self._changing(AsyncMigrations.execute, *args, **kwargs)

    def provision(self, *args: Any, **kwargs: Any) -> int:
        """See `AsyncMigrations.provision`."""
        return self._changing(AsyncMigrations.provision, *args, **kwargs)

    # -- how -----------------------------------------------------------------------------------------------------

    def _changing(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        try:
            return self._call(method, *args, **kwargs)
        finally:
            self._drain()

    def _call(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        self._fleet.check_usable()

        async def inside() -> T:
            options = self._fleet.options
            passwords = options.passwords
            parts = assembled(
                self._fleet.topology,
                self._fleet.limits,
                kwargs={key: value for key, value in options.kwargs.items() if key != "row_factory"},
                passwords=None if passwords is None else _aside(passwords),
            )
            await parts.fleet.open()
            try:
                return await method(AsyncMigrations(parts.fleet, partial(_execute, parts)), *args, **kwargs)
            finally:
                await parts.fleet.close(_CLOSE_SECONDS)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(inside())
        with ThreadPoolExecutor(1, thread_name_prefix="shardpool-migrate") as thread:
            return thread.submit(asyncio.run, inside()).result()

    def _drain(self) -> None:
        self._fleet.schema.changed()
        for shard in self._fleet.snapshot.shards.values():
            for pool in shard.endpoints:
                pool.drain()


async def _folder(migrations: AsyncMigrations, folder: str | Path | None) -> Folder:
    return migrations.folder(folder)


async def _execute(parts: AsyncParts, query: Any, params: None = None, *, timeout: float | None = None) -> Result:
    call = Call(query, params, parts.fleet.deadline(timeout))
    return await dispatch.execute(parts.fleet, parts.routes, parts.plans.planner, call)


def _aside(passwords: Callable[[str, str], str | None]) -> Callable[[str, str], Coroutine[Any, Any, str | None]]:
    """The caller's function, in a thread: it may block."""

    @wraps(passwords)
    async def ask(shard: str, endpoint: str) -> str | None:
        return await asyncio.to_thread(passwords, shard, endpoint)

    return ask
