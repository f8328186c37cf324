"""The shard whose sequences number all rows leaves the fleet, or another would take its place."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from shardpool import Router, load_topology
from tests.commands import run

from ..timing import SLOW

KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  tenants:
    key: bigint
    hash: {{function: murmur3, buckets: 16, owners: {{s1: 0-7, s2: 8-15}}}}
    tables: {{orders: tenant_id}}
id_block: 10
"""
SCHEMA = """\
create table orders (tenant_id bigint not null, id bigserial primary key, n int generated always as identity);
create sequence downwards increment -1;
"""
INSERT = "insert into orders (tenant_id) values (%s) returning id, n"


def edit(path: Path, *arguments: str, code: int = 0) -> str:
    done = run(["topology", *arguments], env={**os.environ, "SHARDPOOL_TOPOLOGY": str(path)})
    assert done.returncode == code, done.stderr
    return done.stderr


def test_its_numbers_are_carried_over_when_it_is_removed(shardpool_make_topology: Callable[..., Path]) -> None:
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    # One that goes on with the topology of before, whatever is edited.
    with Router(load_topology(path)) as late, Router(path) as router:
        told = [router.execute(INSERT, (tenant,)).one() for tenant in range(15)]
        down = [late.execute("select nextval('downwards')").one()[0] for _ in range(3)]
        edit(path, "shard", "remove", "s0", "--settle", "0")
        with Router(path) as other:
            assert other.shards == ("s1", "s2", "s3")
            for tenant in range(30):
                told += [own.execute(INSERT, (tenant,)).one() for own in (late, other)]
                down += [own.execute("select nextval('downwards')").one()[0] for own in (late, other)]
    for numbers in ([row[0] for row in told], [row[1] for row in told], down):
        assert max(Counter(numbers).values()) == 1
    assert max(row[0] for row in told) > 1_000_000
    assert min(down) < -1_000_000


def test_it_is_not_replaced_by_the_order_of_the_file(shardpool_make_topology: Callable[..., Path]) -> None:
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    text = path.read_text()
    start, end = text.index("  s0:"), text.index("  s1:")
    after = text.index("  s2:")
    path.with_suffix(".new").write_text(text[:start] + text[end:after] + text[start:end] + text[after:])
    told = edit(path, "apply", str(path.with_suffix(".new")), code=1)
    assert "shard s1 would come before s0, whose sequences number the rows of all shards" in told
    edit(path, "rename", "s0", "first", "--settle", "0")
    assert load_topology(path).numbering_shard == "first"


def test_its_sequences_go_on_as_before_when_the_edit_is_undone(shardpool_make_topology: Callable[..., Path]) -> None:
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    with Router(path) as router:
        router.shard("s1").execute("alter sequence orders_id_seq maxvalue 500")
        told = edit(path, "shard", "remove", "s0", "--settle", "0", code=1)
        assert "has no numbers left behind" in told
        assert router.shard("s0").execute(
            "select seqmax from pg_sequence where seqrelid = 'orders_id_seq'::regclass"
        ).one() == (2**63 - 1,)
        assert "s0" in router.shards
        router.shard("s1").execute("alter sequence orders_id_seq no maxvalue")
    edit(path, "shard", "remove", "s0", "--settle", "0")


def test_one_whose_server_is_lost_is_taken_out_by_hand(shardpool_make_topology: Callable[..., Path]) -> None:
    """As docs/howto/ids.md says."""
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    with Router(path) as router:
        told = [router.execute(INSERT, (tenant,)).one()[0] for tenant in range(15)]
    text = path.read_text()
    start, end = text.index("  s0:"), text.index("  s1:")
    lost = re.sub(r"port: '[0-9]+'", "port: 1", text[start:end])
    assert lost != text[start:end]
    path.write_text(text[:start] + lost + text[end:])
    refused = edit(path, "shard", "remove", "s0", "--settle", "0", code=1)
    assert "shard s0 cannot be reached" in refused and "take it out of the file by hand" in refused
    by_hand = text[:start] + text[end:]
    epoch = load_topology(path).epoch
    path.write_text(by_hand.replace(f"epoch: {epoch}\n", f"epoch: {epoch + 1}\n"))
    assert _run(path, "init").count("up to date") == 3
    for statement in re.findall(r'Run: shardpool query "(.+)"', _run(path, "check")):
        _run(path, "query", statement)
    with Router(path) as router:
        told += [router.execute(INSERT, (tenant,)).one()[0] for tenant in range(15)]
    assert max(Counter(told).values()) == 1


def _run(path: Path, *arguments: str) -> str:
    done = run(arguments, env={**os.environ, "SHARDPOOL_TOPOLOGY": str(path)})
    assert done.returncode == 0, done.stderr
    return done.stdout
