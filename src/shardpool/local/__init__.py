"""A fleet of real PostgreSQL servers on this machine, for trying out, developing and testing.

The servers run detached: they survive the process that started them, and a later one finds them by their state file.
They listen on loopback and on unix sockets, want passwords, and are tuned for speed, not for keeping data (`durable`
turns that round). Never a server that was not started here is touched: before a process is signalled, it is compared
with what was written down when it was started.
"""

from typing import TYPE_CHECKING

from .._exports import exports

if TYPE_CHECKING:
    from ..errors import LocalError, LocalMisuse
    from .binaries import find_binaries
    from .fleet import LocalFleet, list_fleets
    from .server import Server, ServerStatus

__all__ = ["LocalError", "LocalFleet", "LocalMisuse", "Server", "ServerStatus", "find_binaries", "list_fleets"]

__getattr__ = exports(
    __name__,
    {
        "..errors": "LocalError LocalMisuse",
        ".binaries": "find_binaries",
        ".fleet": "LocalFleet list_fleets",
        ".server": "Server ServerStatus",
    },
)
