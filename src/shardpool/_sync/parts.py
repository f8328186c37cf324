# Generated from _async/parts.py by tools/unasync.py: edit that one, then run `make sync`.
"""What a router is made of: the fleet as it runs, the plans for its SQL, and the routes of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from psycopg import Connection

from .._endpoint.meter import Meters
from .._runtime.calls import Calls
from .._runtime.intake import AnswerLimits
from ..events import Log, Observer, Observers
from ..newer_maps import NewerMaps
from ..query.choices import STRATEGIES
from ..topology import Topology
from .fleet.fleet import Fleet
from .fleet.follower import FileState
from .fleet.options import ConnectOptions
from .plans.later import Plans
from .routes import Routes


class Parts(NamedTuple):
    """The fleet is neither open nor connected; `sql.dispatch` answers by all three."""

    fleet: Fleet
    routes: Routes
    plans: Plans


def assembled(
    topology: Topology,
    limits: AnswerLimits,
    *,
    connection_class: type[Connection[Any]] = Connection,
    configure: Callable[[Connection[Any]], None] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    observers: Iterable[Observer] = (),
    max_held: int = 1000,
    passwords: Callable[[str, str], str | None] | None = None,
    path: str | None = None,
    file_state: FileState = (),
    reload_interval: float | None = None,
) -> Parts:
    """The parts, joined: see `Router` for the arguments. No I/O."""
    meters, newer_maps = Meters(), NewerMaps()
    everybody = Observers([meters, newer_maps, Log(), *observers])
    fleet = Fleet(
        topology,
        ConnectOptions(connection_class, configure, dict(kwargs or {}), everybody, max_held, meters, passwords),
        newer_maps,
        Calls(STRATEGIES),
        path=path,
        file_state=file_state,
        reload_interval=reload_interval,
        limits=limits,
    )
    fleet.schema = plans = Plans(fleet)
    routes = Routes(fleet, plans)
    fleet.before_swap = routes.before_swap
    return Parts(fleet, routes, plans)
