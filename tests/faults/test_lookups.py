"""A row and its entry are both there or neither, whoever is killed at whichever step of their commit."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from shardpool import Router, load_topology
from shardpool.operations import check_lookups, create_lookups, repair_lookups

from ..timing import SLOW
from .proxy import Cut, Pass, Proxy

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  people: {{key: bigint, {OWNERS}, tables: {{users: id}}}}
  emails: {{key: text, {OWNERS}, lookup: {{users.email: unique}}}}
"""
SCHEMA = "create table users (id bigint primary key, email text)"
_CLIENT = """
import sys
from shardpool import Router
with Router(sys.argv[1], kwargs={"application_name": "killed"}) as router:
    router.wait(20)
    print("ready", flush=True)
    sys.stdin.readline()
    router.execute(sys.argv[2])
"""
_SESSIONS = "select count(*) from pg_stat_activity where application_name = 'killed'"
# Where the client stands still, on the shard of the row or that of the value, and whether the row is there afterwards.
POINTS = [
    ("value", b"insert into", True, False),
    ("value", b"prepare transaction", False, False),
    ("value", b"prepare transaction", True, False),
    ("row", b"pg_advisory_xact_lock_shared", True, True),
    ("value", b"commit prepared", False, True),
]


class Proxied:
    """A fleet, and the same behind proxies."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.behind = path, folder / "behind.yaml"
        self.proxies: dict[str, Proxy] = {}
        text = path.read_text()
        for name, shard in load_topology(path).shards.items():
            port = shard.primary.param("port")
            self.proxies[name] = Proxy((shard.primary.param("host"), int(port)))
            text = re.sub(rf"port: '?{port}'?", f"port: {self.proxies[name].port}", text)
        self.behind.write_text(text)


@pytest.fixture
def proxied(shardpool_make_topology: Callable[..., Path], tmp_path: Path) -> Iterator[Proxied]:
    made = Proxied(shardpool_make_topology(KEYSPACES, SCHEMA), tmp_path)
    topology = load_topology(made.path)
    asyncio.run(create_lookups(topology, timeout=SLOW))
    asyncio.run(repair_lookups(topology, orphans=False))
    yield made
    for proxy in made.proxies.values():
        proxy.close()


def test_a_client_that_is_killed_leaves_the_row_and_its_entry_or_neither(proxied: Proxied) -> None:
    with Router(proxied.path) as router:
        space = router.topology.keyspaces["emails"]
        by_shard = {
            space.shard_by_bucket[space.partitioning.bucket(f"v{number}")]: f"v{number}" for number in range(100)
        }
        for number, (where, marker, answered, is_there) in enumerate(POINTS):
            row = router.for_key(number, keyspace="people").shard
            value, email = next((shard, email) for shard, email in sorted(by_shard.items()) if shard != row)
            router.execute("delete from users where email = %s", (email,))
            proxy = proxied.proxies[row if where == "row" else value]
            kill_at(proxy, marker, answered, proxied.behind, f"insert into users values ({number}, '{email}')")
            limit = monotonic() + SLOW
            # Its servers have done what they had got of it; and then nothing is left of it.
            for name in (row, value):
                while router.shard(name).execute(_SESSIONS).one() != (0,):
                    assert monotonic() < limit, f"its session on {name} goes on"
                    Event().wait(0.01)
            while router.recover():
                assert monotonic() < limit, router.in_doubt()
                Event().wait(0.05)
            found = router.execute("select count(*) from users where id = %s", (number,)).one()[0]
            assert bool(found) is is_there, (where, marker, answered)
            assert router.execute("select id from users where email = %s", (email,)).rows == [(number,)] * is_there
    (report,) = asyncio.run(check_lookups(load_topology(proxied.path)))
    assert report.ok and report.rows == report.entries


def kill_at(proxy: Proxy, marker: bytes, answered: bool, path: Path, statement: str) -> None:
    """A client that runs a statement is killed when the server has got, or done, what holds the marker."""
    command = [sys.executable, "-c", _CLIENT, str(path), statement]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None and client.stdin is not None
            assert client.stdout.readline() == "ready\n"
            before = proxy.cuts
            proxy.set(Cut(marker, answer=answered, times=1, silent=True))
            client.stdin.write("go\n")
            client.stdin.flush()
            limit = monotonic() + SLOW
            while proxy.cuts == before:
                assert monotonic() < limit, f"nobody came to {marker!r}"
                Event().wait(0.01)
        finally:
            client.kill()
    proxy.set(Pass())
    proxy.reset_dead()
