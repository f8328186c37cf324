"""A local fleet: all its servers, and the topology file by which a router finds them."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as futures_wait
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..errors import LocalError, LocalMisuse
from . import state
from .binaries import Binaries, account, find_binaries
from .server import NOT_DURABLE, SETTINGS, Server, ServerStatus
from .state import State
from .topology_file import DEFAULT_KEYSPACES, topology_text

# Below what Linux, macOS and IANA give to outgoing connections.
_PORTS = range(20000, 32768)

Progress = Callable[[str], None]


class LocalFleet:
    """A fleet of servers on this machine. Make one with `up`, find it again with `load`."""

    def __init__(self, written: State) -> None:
        self._state = written

    # -- found and made ------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, name: str = "default") -> LocalFleet:
        """A fleet that was started before, by whichever process; `LocalError` when there is none of that name."""
        written = state.load(name)
        if written is None:
            known = ", ".join(state.names()) or "none"
            raise LocalMisuse(f"there is no local fleet {name}", detail=f"fleets: {known}", hint="shardpool local up")
        return cls(written)

    @classmethod
    def up(
        cls,
        name: str = "default",
        shards: int | None = None,
        replicas: int | Mapping[str, int] | None = None,
        *,
        directory: str | None = None,
        database: str | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
        control: str = "required",
        postgres: int | None = None,
        progress: Progress | None = None,
    ) -> LocalFleet:
        """Start a fleet of shards `s0`, `s1`, … and give it; one that is up already is given as it is.

        `shards` (default: 4), `replicas` (default: none) and `database` (default: shop) are those of the fleet where it
        has stopped, and have to be where they are given. `replicas` is a number for each shard, or {shard: number}.
        `directory` is where data lies (default: in memory where there is room, unless `durable`), `port` the first of
        consecutive ports (default: free ones). `settings` go into each server's configuration. `postgres` is the major
        version of the servers (default: that of the first programs that are found; see `find_binaries`), and has to be
        that of a fleet that is there. Data is lost when the machine stops, unless `durable`. Blocks for about
        2 s; raises `LocalError`.
        """
        if shards is not None and not 1 <= shards <= 64:
            raise LocalMisuse("a fleet has 1 to 64 shards")
        with state.locked(name):
            written = state.load(name)
            known = written.options if written is not None and written.complete else {}
            shards = known.get("shards", 4) if shards is None else shards
            options = {
                "shards": shards,
                "replicas": known.get("replicas", {}) if replicas is None else _replicas(shards, replicas),
                "database": database or known.get("database", "shop"),
            }
            if written is not None and written.complete:
                return cls._again(written, options, postgres, progress)
            if written is not None:  # its starter did not get to the end
                unfinished = cls(written)
                unfinished._remove()
            server_settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **(settings or {})}
            root = state.data_root(directory, durable=durable)
            binaries = find_binaries(postgres)
            return cls._new(
                name, options, binaries, root, port, server_settings, control, progress or (lambda line: None)
            )

    @classmethod
    def _again(
        cls, written: State, options: dict[str, object], postgres: int | None, progress: Progress | None
    ) -> LocalFleet:
        """A fleet that is written down as complete: start what has stopped since."""
        if written.options != options:
            raise LocalMisuse(
                f"fleet {written.name} is up already, with other shards, replicas or database",
                hint=f"shardpool local down --name {written.name}, or choose another name.",
            )
        fleet = cls(written)
        if postgres not in (None, fleet.version):
            raise LocalMisuse(
                f"fleet {written.name} is one of PostgreSQL {fleet.version}",
                hint=f"shardpool local down --name {written.name}, or choose another name.",
            )
        fleet.was_up = True
        stopped = [server for server in fleet.servers if not server.is_running]
        if stopped and progress is not None:
            progress(f"starting {', '.join(server.name for server in stopped)} again")
        fleet.start(stopped)
        return fleet

    @classmethod
    def _new(
        cls,
        name: str,
        options: dict[str, object],
        binaries: Binaries,
        folder: Path,
        port: int | None,
        settings: dict[str, str],
        control: str,
        progress: Progress,
    ) -> LocalFleet:
        root = state.make_private(folder, for_servers=True)
        data = state.make_private(root / f"{name}-{secrets.token_hex(3)}", for_servers=True)
        servers = _servers(name, options, data, port)
        fleet = cls(State(name, str(options["database"]), str(data), servers, options))
        fleet._state.save()
        try:
            _make_sockets(data / "sock")
            progress(f"PostgreSQL {binaries.version}: {', '.join(server.name for server in servers)}")
            _side_by_side([partial(server.make, binaries, settings) for server in servers if server.role == "primary"])
            fleet._state.save()
            _side_by_side(
                [
                    partial(server.make_replica, binaries, fleet.server(server.shard), settings)
                    for server in servers
                    if server.role == "replica"
                ]
            )
            fleet._control = control
            fleet._write_password()
            fleet.write_topology()
        except BaseException:
            fleet._remove()
            raise
        fleet._state.complete = True
        fleet._state.save()
        return fleet

    # -- what it is ----------------------------------------------------------------------------------------------

    _control = "required"
    was_up = False
    """Whether `up` found the fleet up already: then somebody else may be using it."""

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def servers(self) -> list[Server]:
        """Primaries first, in the order of the shards."""
        return self._state.servers

    @property
    def directory(self) -> Path:
        """Where the state, the topology file and the password file are."""
        return self._state.folder

    @property
    def topology_path(self) -> Path:
        """The topology file of the fleet."""
        return self.directory / "topology.yaml"

    @property
    def version(self) -> int:
        """The major version of PostgreSQL that the data of the fleet is of."""
        return int((self.servers[0].data / "PG_VERSION").read_text(encoding="ascii"))

    def server(self, name: str) -> Server:
        """A server by its name: `s0`, or `s0-replica-1`."""
        for server in self.servers:
            if server.name == name:
                return server
        raise LocalMisuse(f"fleet {self.name} has no server {name}", hint=", ".join(s.name for s in self.servers))

    def status(self) -> list[ServerStatus]:
        """Every server, as its process is now."""
        return [server.status() for server in self.servers]

    def connect_command(self, name: str) -> list[str]:
        """The psql command line for a server; its password is in the file that PGPASSFILE must name."""
        server = self.server(name)
        program = shutil.which("psql") or find_binaries(self.version).program("psql")
        return [program, "-h", "127.0.0.1", "-p", str(server.port), "-U", "app", "-d", server.database]

    @property
    def pgpass_path(self) -> Path:
        """A password file in libpq's format for all servers of the fleet."""
        return self.directory / "pgpass"

    def write_topology(
        self,
        keyspaces: str = DEFAULT_KEYSPACES,
        *,
        epoch: int = 1,
        path: Path | None = None,
        database: str | None = None,
    ) -> Path:
        """Write a topology file whose keyspaces and tables are this YAML text, `{owners}` in it being 4096 buckets.

        Default: over the fleet's own topology file.
        """
        path = path or self.topology_path
        text = topology_text(
            self.name, self.servers, self.directory / "password", keyspaces, epoch, self._control, database
        )
        path.write_text(text, encoding="utf-8")
        return path

    def _write_password(self) -> None:
        user = self.servers[0].passwords["app"]
        lines = [f"127.0.0.1:{server.port}:*:app:{user}\n" for server in self.servers]
        for path, text in ((self.directory / "password", user), (self.pgpass_path, "".join(lines))):
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")

    # -- what is done to it --------------------------------------------------------------------------------------

    def start(self, servers: Sequence[Server] | None = None) -> None:
        """Start the servers that do not run."""
        binaries = find_binaries(self.version)
        for role in ("primary", "replica"):
            chosen = [server for server in servers or self.servers if server.role == role]
            _side_by_side([partial(server.start, binaries) for server in chosen])
        self._state.save()

    def stop(self) -> None:
        """Stop all servers and keep their data."""
        _side_by_side([partial(server.stop, "fast") for server in reversed(self.servers)])
        self._state.save()

    def down(self, remove: bool = True) -> None:
        """Stop all servers; with `remove`, remove their data and everything that is written down of the fleet."""
        with state.locked(self.name):
            if remove:
                self._remove()
            else:
                self.stop()

    def _remove(self) -> None:
        for server in self.servers:
            server.find()
        _side_by_side([partial(server.stop, "immediate") for server in self.servers])
        for server in self.servers:
            server.remove()
        shutil.rmtree(self._state.data, ignore_errors=True)
        shutil.rmtree(self._state.folder, ignore_errors=True)


def list_fleets() -> list[LocalFleet]:
    """Every fleet that is written down, by name."""
    written = [state.load(name) for name in state.names()]
    return [LocalFleet(fleet) for fleet in written if fleet is not None]


def _replicas(shards: int, replicas: int | Mapping[str, int]) -> dict[str, int]:
    names = [f"s{number}" for number in range(shards)]
    if isinstance(replicas, int):
        return dict.fromkeys(names, replicas) if replicas else {}
    unknown = set(replicas) - set(names)
    if unknown:
        raise LocalMisuse(f"no shard {', '.join(sorted(unknown))} for replicas", hint=f"Shards: {', '.join(names)}.")
    return {name: count for name, count in replicas.items() if count}


def _servers(name: str, options: dict[str, object], data: Path, port: int | None) -> list[Server]:
    shards, replicas = options["shards"], options["replicas"]
    assert isinstance(shards, int) and isinstance(replicas, dict)
    wanted = [(f"s{number}", f"s{number}", "primary") for number in range(shards)]
    wanted += [(f"{s}-replica-{n + 1}", s, "replica") for s, count in replicas.items() for n in range(count)]
    ports = list(range(port, port + len(wanted))) if port else _free_ports(len(wanted))
    passwords = {"app": secrets.token_urlsafe(18), "postgres": secrets.token_urlsafe(18)}
    return [
        Server(
            name=server,
            shard=shard,
            role="primary" if role == "primary" else "replica",
            port=ports[number],
            folder=str(data / server),
            sockets=str(data / "sock"),
            database=str(options["database"]),
            passwords=passwords,
        )
        for number, (server, shard, role) in enumerate(wanted)
    ]


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now.

    Not those that the system gives to outgoing connections: one of these could take the port of a server before it is
    started, or while it is stopped.
    """
    held: list[socket.socket] = []
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(held) == count:
                break
            with suppress(OSError):
                held.append(socket.create_server(("127.0.0.1", port)))
        return [listener.getsockname()[1] for listener in held]
    finally:
        for listener in held:
            listener.close()


def _make_sockets(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if (who := account()) is not None:
        os.chown(folder, who.uid, who.gid)
    # sockaddr_un holds 107 bytes on Linux and 103 on macOS, the socket's own name included.
    if len(str(folder)) > 103 - len("/.s.PGSQL.65535"):
        raise LocalError(f"the folder for the sockets has too long a path: {folder}", hint="Choose another directory.")


def _side_by_side(steps: Sequence[Callable[[], None]]) -> None:
    """All steps on threads; waits for all, over an interrupt too, and raises the interrupt or the first failure.

    Whoever cleans up after an interrupt must not meet steps that are still making what is being removed.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, max(1, len(steps))))
    done = [pool.submit(step) for step in steps]
    interrupt: BaseException | None = None
    while not all(future.done() for future in done):
        try:
            futures_wait(done)
        except KeyboardInterrupt as error:
            interrupt = error
    pool.shutdown()
    if interrupt is not None:
        raise interrupt
    for future in done:
        future.result()
