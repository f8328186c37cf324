"""An existing tool of migrations, once for each shard: DATABASE_URL, and libpq's variables, say where."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from psycopg import AsyncConnection

from ..errors import MigrationError

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet
    from .session import ShardSession

_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcertmode": "PGSSLCERTMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
    "client_encoding": "PGCLIENTENCODING",
    "options": "PGOPTIONS",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
}
_IN_URL = ("host", "port", "dbname", "user", "password")
# What drivers in other languages know too. They hand on to the server what they do not know, and it refuses that.
_BEHIND_URL = ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "application_name", "options")
_LAST_LINES = 5
# Seconds that a program has to end when it is told to.
_END = 5.0


async def environment(fleet: AsyncFleet, shard: str, conn: AsyncConnection[Any]) -> tuple[dict[str, str], str | None]:
    """The variables for a program that is to reach the shard as `conn` has, and the password that is among them."""
    endpoint = fleet.topology.shard(shard).writable
    given = await fleet.dialer.parameters(fleet.topology, shard)
    params = {key: str(value) for key, value in given.items() if key in dict(endpoint.params) or key in _IN_URL}
    params |= _reached(params, conn)
    variables = {name: params[key] for key, name in _VARIABLES.items() if key in params}
    return {**variables, "DATABASE_URL": url(params), "SHARDPOOL_SHARD": shard}, params.get("password")


def _reached(params: Mapping[str, str], conn: AsyncConnection[Any]) -> dict[str, str]:
    """Where the connection has got to: of several nodes the primary; and whether with TLS, where that was left open.

    libpq tries both. Drivers in Go do not, and demand TLS of a server that may have none.
    """
    address = {"host": conn.info.host, "port": str(conn.info.port)}
    if params.get("sslmode", "prefer") in ("allow", "prefer"):
        address["sslmode"] = "require" if conn.pgconn.ssl_in_use else "disable"
    return address


def url(params: Mapping[str, str]) -> str:
    """The parameters as a URL that libpq and drivers in other languages read."""
    host = params.get("host", "localhost")
    login = quote(params.get("user", ""), safe="")
    if "password" in params:
        login += ":" + quote(params["password"], safe="")
    more = {key: params[key] for key in _BEHIND_URL if key in params}
    if host.startswith("/"):
        more["host"], host = host, ""
    if ":" in host:
        host = f"[{host}]"
    query = f"?{urlencode(more, quote_via=quote)}" if more else ""
    port = f":{params['port']}" if "port" in params else ""
    return f"postgresql://{login}{'@' if login else ''}{host}{port}/{quote(params.get('dbname', ''), safe='')}{query}"


async def run_program(
    fleet: AsyncFleet, session: ShardSession, command: Sequence[str], line: Callable[[str], None]
) -> None:
    """Run it and give each line that it prints; raises `MigrationError` unless it exits with 0.

    It is ended when the caller is interrupted. The password is not shown, should it be printed.
    """
    shard = session.shard
    variables, password = await environment(fleet, shard, session.worker)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # So that what it has started is ended with it, and none asks for a password at the terminal.
            start_new_session=True,
        )
    except OSError as error:
        raise MigrationError(f"{command[0]} cannot be run", detail=error.strerror) from error
    last: list[str] = []
    assert process.stdout is not None
    try:
        async for raw in process.stdout:
            text = _masked(raw.decode(errors="replace").rstrip(), password)
            last = [*last, text][-_LAST_LINES:]
            line(text)
        code = await process.wait()
    except BaseException:
        await end(process)
        raise
    if code != 0:
        raise MigrationError(f"{command[0]} exited with {code} on shard {shard}", detail=" / ".join(last) or None)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a program that has a session of its own, and what it has started; by SIGKILL those that SIGTERM does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            await asyncio.wait_for(process.wait(), _END)
            return
        except TimeoutError:
            continue
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _masked(text: str, password: str | None) -> str:
    if not password:
        return text
    return text.replace(password, "***").replace(quote(password, safe=""), "***")
