"""The migrations of a sync router: the same methods, each in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..report import Report as FleetReport
from .drift import Drift
from .files import Folder
from .migrations import AsyncMigrations
from .plan import Plan
from .report import Report
from .status import Status

if TYPE_CHECKING:
    from .._sync.router import Router

T = TypeVar("T")


class Migrations:
    """What `AsyncMigrations` does, for a sync router: see there for the arguments.

    A call makes an `AsyncRouter` of the same topology and passwords for its time, and drains this router's pools where
    something was changed. `configure` and `connection_class` of the router are not used: they are of its own kind.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    def folder(self, folder: str | Path | None = None) -> Folder:
        """See `AsyncMigrations.folder`."""
        return self._call(_folder, folder)

    def status(self, *args: Any, **kwargs: Any) -> Status:
        """See `AsyncMigrations.status`."""
        return self._call(AsyncMigrations.status, *args, **kwargs)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """See `AsyncMigrations.plan`."""
        return self._call(AsyncMigrations.plan, *args, **kwargs)

    def up(self, *args: Any, **kwargs: Any) -> Report:
        """See `AsyncMigrations.up`."""
        return self._changing(AsyncMigrations.up, *args, **kwargs)

    def down(self, *args: Any, **kwargs: Any) -> Report:
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

    def execute(self, *args: Any, **kwargs: Any) -> Report:
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
        self._router._check_usable()

        async def inside() -> T:
            from .._async.router import AsyncRouter

            options = self._router._options
            passwords = options.passwords
            async with AsyncRouter(
                self._router.topology,
                kwargs={key: value for key, value in options.kwargs.items() if key != "row_factory"},
                passwords=None if passwords is None else _aside(passwords),
            ) as router:
                return await method(router.migrations, *args, **kwargs)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(inside())
        with ThreadPoolExecutor(1, thread_name_prefix="shardpool-migrate") as thread:
            return thread.submit(asyncio.run, inside()).result()

    def _drain(self) -> None:
        from .._sync.planning import forget_catalog

        forget_catalog(self._router)
        for shard in self._router._state.pools.values():
            for pool in shard.endpoints:
                pool.drain()


async def _folder(migrations: AsyncMigrations, folder: str | Path | None) -> Folder:
    return migrations.folder(folder)


def _aside(passwords: Callable[[str, str], str | None]) -> Callable[[str, str], Coroutine[Any, Any, str | None]]:
    """The caller's function, in a thread: it may block."""

    @wraps(passwords)
    async def ask(shard: str, endpoint: str) -> str | None:
        return await asyncio.to_thread(passwords, shard, endpoint)

    return ask
