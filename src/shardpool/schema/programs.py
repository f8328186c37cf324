"""An existing tool of migrations, once for each shard: DATABASE_URL, and libpq's variables, say where."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from .errors import MigrationError

if TYPE_CHECKING:
    from .._async.router import AsyncRouter

_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
_IN_URL = ("host", "port", "dbname", "user", "password")
_LAST_LINES = 5


async def environment(router: AsyncRouter, shard: str) -> tuple[dict[str, str], str | None]:
    """The variables for a program that is to reach the shard, and the password that is among them."""
    from .._async.connector import AsyncConnector

    endpoint = router.topology.shard(shard).writable
    connector = AsyncConnector(router.topology, shard, endpoint, router._options, router._watchdog)
    given = await connector._kwargs()
    params = {key: str(value) for key, value in given.items() if key in dict(endpoint.params) or key in _IN_URL}
    password = params.get("password")
    variables = {name: params[key] for key, name in _VARIABLES.items() if key in params}
    if password is not None:
        variables["PGPASSWORD"] = password
    return {**variables, "DATABASE_URL": url(params), "SHARDPOOL_SHARD": shard}, password


def url(params: Mapping[str, str]) -> str:
    """The parameters as a URL that libpq and drivers in other languages read."""
    host = params.get("host", "localhost")
    login = quote(params.get("user", ""), safe="")
    if "password" in params:
        login += ":" + quote(params["password"], safe="")
    more = {key: value for key, value in params.items() if key not in _IN_URL}
    if host.startswith("/"):
        more["host"], host = host, ""
    if ":" in host:
        host = f"[{host}]"
    query = f"?{urlencode(more, quote_via=quote)}" if more else ""
    port = f":{params['port']}" if "port" in params else ""
    return f"postgresql://{login}{'@' if login else ''}{host}{port}/{quote(params.get('dbname', ''), safe='')}{query}"


async def run_program(router: AsyncRouter, shard: str, command: Sequence[str], line: Callable[[str], None]) -> None:
    """Run it and give each line that it prints; raises `MigrationError` unless it exits with 0.

    It is ended when the caller is interrupted. The password is not shown, should it be printed.
    """
    variables, password = await environment(router, shard)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
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
        if process.returncode is None:
            process.terminate()
            await process.wait()
        raise
    if code != 0:
        raise MigrationError(f"{command[0]} exited with {code} on shard {shard}", detail=" / ".join(last) or None)


def _masked(text: str, password: str | None) -> str:
    if not password:
        return text
    return text.replace(password, "***").replace(quote(password, safe=""), "***")
