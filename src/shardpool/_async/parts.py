"""What a router is made of: the fleet as it runs, the plans for its SQL, and the routes of its keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from .._endpoint.meter import Meters
from .._runtime.calls import Calls
from .._runtime.intake import AnswerLimits
from ..events import Log, Observer, Observers
from ..newer_maps import NewerMaps
from ..query.choices import STRATEGIES
from ..topology import Topology
from .fleet.fleet import AsyncFleet
from .fleet.follower import FileState
from .fleet.options import AsyncConnectOptions
from .plans.later import AsyncPlans
from .routes import AsyncRoutes


class AsyncParts(NamedTuple):
    """The fleet is neither open nor connected; `sql.dispatch` answers by all three."""

    fleet: AsyncFleet
    routes: AsyncRoutes
    plans: AsyncPlans


def assembled(
    topology: Topology,
    limits: AnswerLimits,
    *,
    connection_class: type[AsyncConnection[Any]] = AsyncConnection,
    configure: Callable[[AsyncConnection[Any]], Awaitable[None]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    observers: Iterable[Observer] = (),
    max_held: int = 1000,
    passwords: Callable[[str, str], Awaitable[str | None]] | None = None,
    path: str | None = None,
    file_state: FileState = (),
    reload_interval: float | None = None,
) -> AsyncParts:
    """The parts, joined: see `AsyncRouter` for the arguments. No I/O."""
    meters, newer_maps = Meters(), NewerMaps()
    everybody = Observers([meters, newer_maps, Log(), *observers])
    fleet = AsyncFleet(
        topology,
        AsyncConnectOptions(connection_class, configure, dict(kwargs or {}), everybody, max_held, meters, passwords),
        newer_maps,
        Calls(STRATEGIES),
        path=path,
        file_state=file_state,
        reload_interval=reload_interval,
        limits=limits,
    )
    fleet.schema = plans = AsyncPlans(fleet)
    routes = AsyncRoutes(fleet, plans)
    fleet.before_swap = routes.before_swap
    return AsyncParts(fleet, routes, plans)
