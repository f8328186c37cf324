"""One PostgreSQL server of a local fleet: made, started, stopped, and made to fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any, Literal

import psycopg
from psycopg import sql

from ..errors import LocalError
from .binaries import Binaries, account, as_account
from .processes import children, identity, send, wait_until_gone

Role = Literal["primary", "replica"]
START_SECONDS = 30.0
STOP_SECONDS = 30.0

# What a fleet that is to grow needs from the first day (logical replication, two-phase commit), and small memory.
SETTINGS = {
    "wal_level": "logical",
    "max_prepared_transactions": "100",
    "max_connections": "100",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    # Else the checkpoint of one base backup takes away what another that has just begun still has to read.
    "wal_keep_size": "64MB",
    "max_logical_replication_workers": "8",
    "max_worker_processes": "16",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    "unix_socket_permissions": "0700",
}
# Lost in a power failure, but not when a server is killed: synchronous_commit stays on, so that what was acknowledged
# has left the process.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def make_app(conn: psycopg.Connection[Any], version: int, password: str) -> None:
    """The role under which fleets are used: no superuser, and with the rights that all of shardpool needs."""
    create = sql.SQL("create role app login createdb createrole replication password {}")
    conn.execute(create.format(_as_kept(conn, "app", password)))
    conn.execute("grant pg_monitor, pg_signal_backend to app")
    # What moves buckets: before version 16 only superusers subscribe.
    if version >= 15:
        conn.execute("grant set on parameter session_replication_role to app")
    if version >= 16:
        conn.execute("grant pg_create_subscription to app")


def _as_kept(conn: psycopg.Connection[Any], role: str, password: str) -> str:
    """A password as the server keeps it: whatever it logs, no password is in it."""
    return conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `status` tells of a server; JSON-ready as a dict."""

    name: str
    shard: str
    role: Role
    port: int
    pid: int | None
    running: bool
    data: str
    log: str


@dataclass
class Server:
    """One server. `pid` and `known` are those of its first process, as written down when it was started."""

    name: str
    shard: str
    role: Role
    port: int
    folder: str
    sockets: str
    database: str
    passwords: dict[str, str] = field(repr=False)
    pid: int | None = None
    known: str | None = None

    @property
    def data(self) -> Path:
        return Path(self.folder) / "data"

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log"

    @property
    def is_running(self) -> bool:
        """Whether the very process that was started is still there."""
        return self.pid is not None and self.known is not None and identity(self.pid) == self.known

    def status(self) -> ServerStatus:
        running = self.is_running
        pid = self.pid if running else None
        return ServerStatus(self.name, self.shard, self.role, self.port, pid, running, str(self.data), str(self.log))

    def params(self, user: str = "app", database: str | None = None) -> dict[str, Any]:
        """Keyword arguments for `psycopg.connect`: `app` owns the database, `postgres` is the superuser."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": user,
            "password": self.passwords[user],
            "dbname": database or self.database,
            "connect_timeout": 5,
        }

    def dsn(self, user: str = "app", database: str | None = None) -> str:
        """A connection string, with the password in it."""
        return psycopg.conninfo.make_conninfo("", **self.params(user, database))

    def connect(self, user: str = "postgres", database: str | None = None) -> psycopg.Connection[Any]:
        return psycopg.connect(autocommit=True, **self.params(user, database))

    # -- made and started ----------------------------------------------------------------------------------------

    def make(self, binaries: Binaries, settings: dict[str, str]) -> None:
        """A new primary: initdb, configuration, roles, database. Leaves it running."""
        self._make_folder()
        as_account(
            [
                *(binaries.program("initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
            ]
        )
        self._write_settings({**settings, "port": str(self.port)})
        # Until the roles have passwords only the socket is open, in a folder that nobody else can enter.
        self._write("pg_hba.conf", "local all postgres trust\n")
        self.start(binaries, wait=False)
        with self._until_ready(
            {"host": self.sockets, "port": self.port, "user": "postgres", "dbname": "postgres"}
        ) as c:
            self._make_roles(c, binaries.version)
            self._write("pg_hba.conf", _HBA)
            c.execute("select pg_reload_conf()")

    def _make_roles(self, conn: psycopg.Connection[Any], version: int) -> None:
        if version >= 16:
            # These passwords are 144 random bits: what makes guesses slow only makes each connection slow.
            conn.execute("set scram_iterations = 1")
        kept = _as_kept(conn, "postgres", self.passwords["postgres"])
        conn.execute(sql.SQL("alter role postgres password {}").format(kept))
        make_app(conn, version, self.passwords["app"])
        conn.execute(sql.SQL("create database {} owner app").format(sql.Identifier(self.database)))

    def make_replica(self, binaries: Binaries, primary: Server, settings: dict[str, str]) -> None:
        """A streaming replica of a running primary, with a slot of its own. Returns when it streams."""
        self._make_folder()
        slot = self.name.replace("-", "_")
        as_account(
            [
                *(binaries.program("pg_basebackup"), "-D", str(self.data), "-R", "-X", "stream", "-c", "fast"),
                *("--no-sync", "-C", "-S", slot, "-h", "127.0.0.1", "-p", str(primary.port), "-U", "app"),
            ],
            env={**os.environ, "PGPASSWORD": primary.passwords["app"]},
        )
        self._write_settings({**settings, "port": str(self.port)})
        self.start(binaries)
        deadline = monotonic() + START_SECONDS
        with self.connect(database="postgres") as conn:
            while not conn.execute("select status = 'streaming' from pg_stat_wal_receiver").fetchone():
                if monotonic() >= deadline:
                    raise self._failed("does not stream")
                Event().wait(0.02)

    def start(self, binaries: Binaries, *, wait: bool = True) -> None:
        """Start the server, detached from this process; returns when it takes connections."""
        deadline = monotonic() + START_SECONDS
        while not self.is_running:
            before = self.log.stat().st_size if self.log.exists() else 0
            try:
                self._launch(binaries, wait=wait)
            except LocalError:
                # The sessions of a server that was killed end when they notice.
                if _STILL_HELD not in self.log.read_bytes()[before:] or monotonic() >= deadline:
                    raise
                Event().wait(0.05)

    def _launch(self, binaries: Binaries, *, wait: bool) -> None:
        # Left by a crash; their number may be that of a process that nobody has collected, which would look alive.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (Path(self.sockets) / f".s.PGSQL.{self.port}.lock").unlink(missing_ok=True)
        who = account()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [binaries.program("postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **(who.as_popen_arguments() if who else {}),
            )
        self.pid = process.pid
        self._wait_for_pid_file(process)
        self.known = identity(process.pid)
        # The process is not waited for here: it outlives us. What is left of it is collected when it is stopped.
        process.returncode = 0
        if wait:
            self._until_ready(self.params("app", "postgres")).close()

    def _wait_for_pid_file(self, process: subprocess.Popen[bytes]) -> None:
        deadline = monotonic() + START_SECONDS
        while not (self.data / "postmaster.pid").exists():
            if process.poll() is not None or monotonic() >= deadline:
                raise self._failed("did not start")
            Event().wait(0.005)

    def _until_ready(self, params: dict[str, Any]) -> psycopg.Connection[Any]:
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                return psycopg.connect(autocommit=True, **params)
            except psycopg.OperationalError as error:
                if not self.is_running or monotonic() >= deadline:
                    raise self._failed("does not take connections") from error
                Event().wait(0.01)

    def _failed(self, what: str) -> LocalError:
        tail = self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""
        return LocalError(f"server {self.name} {what}", detail=tail.strip() or None, hint=f"Its log: {self.log}")

    def _make_folder(self) -> None:
        folder = Path(self.folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        if (who := account()) is not None:
            os.chown(folder, who.uid, who.gid)

    def _write_settings(self, settings: dict[str, str]) -> None:
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        lines.append(f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{self.sockets}'\n")
        self._write("shardpool.conf", "".join(lines))
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("include 'shardpool.conf'\n")

    def _write(self, name: str, text: str) -> None:
        path = self.data / name
        path.write_text(text)
        if (who := account()) is not None:
            os.chown(path, who.uid, who.gid)

    # -- stopped, and made to fail -------------------------------------------------------------------------------

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server, if it is ours and running: `fast` rolls open transactions back, `immediate` is a crash."""
        if not self.is_running:
            return
        self.resume()
        self._signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        self._wait_until_gone()

    def kill(self) -> None:
        """SIGKILL to the server and all its processes."""
        self._signal(signal.SIGKILL, *self._all()[1:])
        self._wait_until_gone()

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections are taken by the kernel, and nobody answers."""
        self._signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP, *self._all()[1:])

    def resume(self) -> None:
        self._signal(signal.SIGCONT, *self._all()[1:])

    def promote(self) -> None:
        """Make a replica the primary; returns when it takes writes."""
        with self.connect(database="postgres") as conn:
            conn.execute("select pg_promote(true, 30)")
        self.role = "primary"

    def _all(self) -> list[int]:
        return [self.pid, *children(self.pid)] if self.is_running and self.pid is not None else []

    def _signal(self, number: signal.Signals, *others: int) -> None:
        """To the first process, after a look that it is still ours, and to the others."""
        if self.pid is None or not self.is_running:
            raise LocalError(f"server {self.name} is not running")
        pids: Iterable[int] = (self.pid, *others)
        for pid in pids:
            send(pid, number)

    def _wait_until_gone(self) -> None:
        if self.pid is not None and self.known is not None:
            wait_until_gone(self.pid, self.known, STOP_SECONDS)
        self.pid = self.known = None

    def find(self) -> None:
        """Find the process of a server whose starter ended before it could write it down: our data folder names it."""
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            known = identity(pid)
            if self.pid is None and known is not None and str(self.data) in known:
                self.pid, self.known = pid, known

    def remove(self) -> None:
        """Remove the data of a server that does not run."""
        for pause in (0.05, 0.2, 1.0, 0.0):
            try:
                shutil.rmtree(self.folder)
            except FileNotFoundError:
                return
            except OSError:
                # What the killed programs had begun is still being written.
                if not pause:
                    raise
                sleep(pause)
            else:
                return


_STILL_HELD = b"pre-existing shared memory block"
_HBA = """\
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
local replication all scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""
