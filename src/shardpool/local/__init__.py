"""A fleet of real PostgreSQL servers on this machine, for trying out, developing and testing.

The servers run detached: they survive the process that started them, and a later one finds them by their state file.
They listen on loopback and on unix sockets, want passwords, and are tuned for speed, not for keeping data (`durable`
turns that round). Never a server that was not started here is touched: before a process is signalled, it is compared
with what was written down when it was started.
"""

from .binaries import LocalError, LocalMisuse, find_binaries
from .fleet import LocalFleet, list_fleets
from .server import Server, ServerStatus

__all__ = ["LocalError", "LocalFleet", "LocalMisuse", "Server", "ServerStatus", "find_binaries", "list_fleets"]
