"""No secret comes out: all error paths are driven with a marker as password, and all that comes out is searched."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import shlex
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, ScatterError, ShardUnavailable, Topology
from shardpool.topology import Endpoint, Secret
from tests.commands import run
from tests.timing import in_time

MARKER = "mArKeR-s3cr3t-0123"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that any logger says, down to DEBUG."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    names = ["", "psycopg", "psycopg.pool", "shardpool", "asyncio"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield said
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def with_endpoint(topology: Topology, change: Callable[[Endpoint], Endpoint]) -> Topology:
    """The topology with another primary of s0."""
    shard = topology.shards["s0"]
    return replace(topology, shards={**topology.shards, "s0": replace(shard, primary=change(shard.primary))})


def with_params(endpoint: Endpoint, **params: str) -> Endpoint:
    return replace(
        endpoint,
        password=Secret(MARKER),
        password_file=None,
        params=tuple(sorted({**dict(endpoint.params), **params}.items())),
    )


# What can go wrong with a connection, and how it is brought about.
WRONGS: dict[str, dict[str, str]] = {
    "wrong password": {},
    "unknown role": {"user": "nobody_of_that_name"},
    "unreachable": {"port": "1"},
    "unknown host": {"host": "nowhere.invalid"},
    "unknown database": {"dbname": "nowhere"},
    "a bad parameter": {"sslmode": "sideways"},
    "an unknown parameter": {"colour": "blue"},
    "a bad port": {"port": "12x"},
    "no such certificate": {"sslmode": "verify-full", "sslrootcert": "/nowhere/root.crt"},
    "refused by the server": {"options": "-c nonsense=1"},
    "the wrong authentication": {"require_auth": "gss"},
}


def came_out(error: BaseException, router: Any) -> str:
    """Everything that tells of an error and of the router: texts, notes, causes, tracebacks with their source, JSON."""
    texts = ["".join(traceback.format_exception(error)), str(error), repr(error)]
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), *getattr(one, "__notes__", [])]
        waiting += [one.__cause__, one.__context__, *getattr(one, "failures", {}).values()]
    topology = router.topology
    texts += [repr(router), str(topology), repr(topology.shards), json.dumps(router.stats())]
    for pools in router._fleet.snapshot.shards.values():
        for pool in pools.endpoints:
            texts += [repr(pool), repr(pool.endpoint), str(pool.endpoint), pool.endpoint.address]
            texts += [repr(pool._inner.current), repr(pool._options), repr(pool._connector)]
    return "\n".join(texts)


def wrong_topologies(topology: Topology) -> Iterator[tuple[str, Topology]]:
    for wrong, params in WRONGS.items():
        yield wrong, with_endpoint(topology, lambda endpoint, given=params: with_params(endpoint, **given))


def test_no_error_log_or_report_tells_a_password(router: Router, logged: io.StringIO) -> None:
    for wrong, topology in wrong_topologies(router.topology):
        with Router(topology) as opened:
            with pytest.raises(ShardUnavailable) as raised:
                opened.shard("s0").execute("select 1")
            with pytest.raises(ScatterError) as scattered:
                opened.scatter("select 1")
            with pytest.raises(ScatterError) as waited:
                opened.wait(0.1)
            told = [came_out(error.value, opened) for error in (raised, scattered, waited)]
            report = opened.check(rows=False)
            told += [str(report), repr(report), json.dumps(report.as_dict())]
        assert report.errors, wrong
        assert MARKER not in "\n".join(told), wrong
        assert MARKER not in logged.getvalue(), wrong


async def test_no_error_or_log_of_tasks_tells_a_password(router: Router, logged: io.StringIO) -> None:
    for wrong, topology in wrong_topologies(router.topology):
        async with AsyncRouter(topology) as opened:
            with pytest.raises(ShardUnavailable) as raised:
                await opened.shard("s0").execute("select 1")
            told = came_out(raised.value, opened)
        assert MARKER not in told, wrong
        assert MARKER not in logged.getvalue(), wrong


@pytest.mark.parametrize("how", ["kwargs", "passwords"])
def test_a_password_that_the_caller_gives_is_not_told_either(router: Router, how: str, logged: io.StringIO) -> None:
    given: dict[str, Any] = {"kwargs": {"password": MARKER}} if how == "kwargs" else {"passwords": lambda *_: MARKER}
    with Router(router.topology, **given) as wrong:
        with pytest.raises(ShardUnavailable, match="password authentication failed") as raised:
            wrong.shard("s0").execute("select 1")
        told = came_out(raised.value, wrong)
    assert MARKER not in told
    assert MARKER not in logged.getvalue()


def test_a_function_that_fails_to_give_a_password_does_not_tell_what_it_tried(
    router: Router, logged: io.StringIO
) -> None:
    def passwords(shard: str, endpoint: str) -> str:
        raise OSError(f"vault refused {MARKER}")

    with (
        Router(router.topology, passwords=passwords) as wrong,
        pytest.raises(ShardUnavailable, match="its password cannot be had") as raised,
    ):
        wrong.shard("s0").execute("select 1")
    assert raised.value.detail is not None and raised.value.detail.endswith("passwords() raised OSError")
    assert MARKER not in str(raised.value) + json.dumps(wrong.stats()) + logged.getvalue()


COMMANDS = [
    "check --json",
    "check",
    "stats --json",
    "query 'select 1'",
    "topology show --json",
    "topology check --json",
]


def test_no_command_prints_a_password(topology_path: str, tmp_path: Path) -> None:
    text = Path(topology_path).read_text().replace("password_file", "passfile")
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace("primary: {", 'primary: {password: "${MARKER_PASSWORD}", '))
    variables = {**os.environ, "MARKER_PASSWORD": MARKER, "SHARDPOOL_TOPOLOGY": str(file)}
    for command in COMMANDS:
        done = run(shlex.split(command), env=variables)
        assert done.stdout + done.stderr, command
        assert MARKER not in done.stdout + done.stderr, command
        # It got as far as the servers, or has shown the file.
        assert "Usage" not in done.stderr, command


# -- passwords by a function ---------------------------------------------------------------------------------------


def password_of(endpoint: Endpoint) -> str:
    if endpoint.password_file is not None:
        return Path(endpoint.password_file).read_text()
    return endpoint.password.reveal() if endpoint.password is not None else ""


def without_passwords(topology: Topology) -> Topology:
    shards = {
        name: replace(shard, primary=replace(shard.primary, password=None, password_file=None))
        for name, shard in topology.shards.items()
    }
    return replace(topology, shards=shards)


def test_a_function_is_asked_for_the_password_of_each_connection(router: Router) -> None:
    right = {name: password_of(shard.primary) for name, shard in router.topology.shards.items()}
    asked: list[tuple[str, str]] = []
    rotated = dict(right)

    def passwords(shard: str, endpoint: str) -> str:
        asked.append((shard, endpoint))
        return rotated[shard]

    with Router(without_passwords(router.topology), passwords=passwords) as opened:
        assert opened.shard("s0").execute("select 1").one() == (1,)
        assert set(asked) == {("s0", "primary")}
        before = len(asked)
        opened.shard("s0").execute("select 1")
        assert len(asked) == before
        rotated["s1"] = "expired"
        with pytest.raises(ShardUnavailable, match="password authentication failed"):
            opened.shard("s1").execute("select 1")
        rotated["s1"] = right["s1"]
        opened.wait(5)
        assert opened.shard("s1").execute("select 1").one() == (1,)
        assert not opened.check().errors


async def test_a_coroutine_is_asked_for_the_password_of_each_connection(router: Router) -> None:
    right = {name: password_of(shard.primary) for name, shard in router.topology.shards.items()}

    async def passwords(shard: str, endpoint: str) -> str | None:
        await asyncio.sleep(0)
        return right[shard] if shard != "s1" else None

    async with AsyncRouter(without_passwords(router.topology), passwords=passwords) as opened:
        assert (await opened.shard("s0").execute("select 1")).one() == (1,)
        with pytest.raises(ShardUnavailable):
            await opened.shard("s1").execute("select 1")


@pytest.mark.parametrize("kind", ["FIFO", "1 GiB"])
def test_a_password_file_that_is_none_refuses_at_once(router: Router, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "password"
    if kind == "FIFO":
        os.mkfifo(file)
    else:
        file.touch()
        os.truncate(file, 1 << 30)
    primary = replace(router.topology.shards["s0"].primary, password=None, password_file=str(file))
    shards = {**router.topology.shards, "s0": replace(router.topology.shards["s0"], primary=primary)}
    with Router(replace(router.topology, shards=shards)) as opened:
        with pytest.raises(ShardUnavailable, match="its password_file cannot be read") as raised:
            opened.shard("s0").execute("select 1")
        assert re.search("no regular file|larger than 65,536 bytes", str(raised.value))


def test_a_function_for_passwords_that_blocks_is_named_and_holds_nobody_up(router: Router) -> None:
    forever = threading.Event()
    topology = without_passwords(router.topology)
    with Router(
        topology, passwords=lambda shard, endpoint: forever.wait() and None, kwargs={"connect_timeout": 1}
    ) as r:
        with pytest.raises(ShardUnavailable, match="passwords\\(\\) gave nothing within 1 s"):
            r.shard("s0").execute("select 1", timeout=10)
        begun = monotonic()
    in_time(monotonic() - begun, 1.5)
    forever.set()


async def test_a_coroutine_for_passwords_that_waits_is_named_and_holds_nobody_up(router: Router) -> None:
    async def passwords(shard: str, endpoint: str) -> str | None:
        await asyncio.Event().wait()
        return None

    topology = without_passwords(router.topology)
    async with AsyncRouter(topology, passwords=passwords, kwargs={"connect_timeout": 1}) as opened:
        with pytest.raises(ShardUnavailable, match="passwords\\(\\) gave nothing within 1 s"):
            await opened.shard("s0").execute("select 1", timeout=10)
        begun = monotonic()
    in_time(monotonic() - begun, 1.5)


# -- answers of a server that is not ours --------------------------------------------------------------------------

STRANGE = [
    "update shardpool.self set shard = repeat('x', 8000000)",
    "update shardpool.self set fleet = E'shop\\nHINT:  All is well.\\x1b[2J'",
    "update shardpool.hash_contract set contract = '\"no object\"'",
    "update shardpool.hash_contract set contract = '{\"buckets\": [[[]]]}'",
    "update shardpool.hash_contract set contract = jsonb_build_object(repeat('x', 1000000), repeat(E'\\n', 1000000))",
    'update shardpool.hash_contract set maps = \'{"epoch": 5, "digests": 7}\'',
    "alter table shardpool.meta alter version type text using 'new', drop column works_with",
    "delete from shardpool.self",
    "alter table shardpool.self drop column fleet cascade",
]


@pytest.mark.parametrize("strange", STRANGE)
def test_what_a_strange_server_says_of_itself_is_told_as_our_error(router: Router, strange: str) -> None:
    with router.shard("s0").connection() as conn:
        conn.execute("drop trigger if exists no_change on shardpool.self")
        conn.execute(strange)
    with Router(router.topology) as other:
        with pytest.raises(ShardUnavailable) as raised:
            other.shard("s0").execute("select 1", timeout=10)
        assert other.shard("s1").execute("select 1").one() == (1,)
        report = other.check()
    told = str(raised.value)
    assert len(told) < 3000 and "\x1b" not in told and "\nHINT:  All is well" not in told
    assert all(len(str(finding)) < 3000 and "\x1b" not in str(finding) for finding in report.findings)
    assert any(finding.subject == "s0/primary" for finding in report.errors)


# -- names are identifiers, never text of a statement ----------------------------------------------------------------


def test_a_hostile_name_is_only_ever_an_identifier(router: Router) -> None:
    hostile = 'x"; drop table orders; --'
    topology = replace(router.topology, epoch=6, reference_tables=("public." + hostile,), single_tables={})
    with Router(topology) as opened:
        opened.check()
        for table, columns in (("orders", [hostile]), (hostile, ["a"])):
            with suppress(psycopg.Error, ScatterError, Exception):
                opened.copy_into(table, [(1,)], columns=columns)
        with suppress(Exception):
            opened.execute(f"select * from {psycopg.sql.Identifier(hostile).as_string()}")
    assert router.shard("s0").execute("select count(*) from orders").one() == (0,)
