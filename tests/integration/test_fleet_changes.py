"""Reload, identity, init, check, a shard that is down, and a forked child."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from shardpool import (
    ConfigError,
    Router,
    RouterMisuse,
    ScatterError,
    ShardUnavailable,
    StaleTopology,
    Topology,
    load_topology,
    parse_topology,
)
from shardpool.topology import Secret
from tests.timing import in_time


def with_shard(topology: Topology, name: str, **params: str) -> Topology:
    """The topology with other connection parameters of one shard's primary."""
    shard = topology.shards[name]
    primary = replace(shard.primary, params=tuple(sorted({**dict(shard.primary.params), **params}.items())))
    return replace(topology, shards={**topology.shards, name: replace(shard, primary=primary)})


def swapped(topology: Topology) -> Topology:
    """The addresses of s0 and s1 exchanged."""
    s0, s1 = topology.shards["s0"], topology.shards["s1"]
    shards = {**topology.shards, "s0": replace(s0, primary=s1.primary), "s1": replace(s1, primary=s0.primary)}
    return replace(topology, shards=shards)


def test_two_swapped_addresses_refuse_every_call_and_write_nothing(router: Router) -> None:
    with Router(swapped(router.topology)) as wrong:
        for name in ("s0", "s1"):
            with pytest.raises(ShardUnavailable, match="not that shard") as raised:
                wrong.shard(name).execute("insert into orders values (1, 1, 'x')")
            assert raised.value.applied == "no"
        with pytest.raises(ScatterError, match="nothing was begun"):
            wrong.scatter("insert into orders values (1, 1, 'x')")
        assert {"s0/primary", "s1/primary"} <= {finding.subject for finding in wrong.check().errors}
        assert wrong.shard("s2").execute("select 1").rows == [(1,)]
    assert all(result.one() == (0,) for result in router.scatter("select count(*) from orders").values())


def test_a_shard_that_is_down_hurts_only_itself_and_is_named(router: Router) -> None:
    with Router(with_shard(router.topology, "s2", port="1")) as partly:
        started = monotonic()
        with pytest.raises(ShardUnavailable, match="shard s2 cannot be reached"):
            partly.shard("s2").execute("select 1")
        in_time(monotonic() - started, 1)
        for name in ("s0", "s1", "s3"):
            assert partly.shard(name).execute("select 1").rows == [(1,)]
        with pytest.raises(ScatterError) as raised:
            partly.wait(0.5)
        assert list(raised.value.failures) == ["s2/primary"]
        with pytest.raises(ScatterError) as raised:
            partly.scatter("insert into orders values (1, 1, 'x')")
        assert list(raised.value.failures) == ["s2"]
        assert list(partly.scatter("select 1", shards=["s0", "s3"])) == ["s0", "s3"]
        assert partly.stats()["shards"]["s2"]["primary"]["last_error"]
    assert all(result.one() == (0,) for result in router.scatter("select count(*) from orders").values())


def test_a_server_without_the_schema_is_refused_unless_the_topology_says_so(router: Router) -> None:
    router.shard("s1").execute("alter schema shardpool rename to hidden")
    with Router(router.topology) as strict, pytest.raises(ShardUnavailable, match="carries no shardpool schema") as e:
        strict.shard("s1").execute("select 1")
    assert e.value.hint == "Run: shardpool init"
    with Router(router.topology) as strict, pytest.raises(ScatterError, match="nothing was begun") as all_shards:
        strict.scatter("select 1")
    assert all_shards.value.hint == "Run: shardpool init"
    with Router(replace(router.topology, control="none")) as loose:
        assert loose.shard("s1").execute("select 1").rows == [(1,)]


def test_another_hash_contract_is_refused(router: Router, topology_path: str) -> None:
    text = Path(topology_path).read_text(encoding="utf-8")
    other = parse_topology(text.replace("function: murmur3", "function: postgres"), file=topology_path)
    with Router(other) as wrong:
        with pytest.raises(ShardUnavailable, match="not that shard") as raised:
            wrong.shard("s0").execute("select 1")
        assert "murmur3" in (raised.value.detail or "")
        with pytest.raises(ScatterError, match="nothing was changed"):
            wrong.init()


def test_init_is_idempotent_and_check_finds_nothing(router: Router) -> None:
    assert set(router.init().values()) == {"up to date"}
    report = router.check()
    assert report.ok and not report.warnings, str(report)


def test_init_of_one_bad_shard_changes_none(router: Router) -> None:
    router.scatter("drop schema shardpool cascade")
    with Router(with_shard(router.topology, "s3", port="1")) as partly, pytest.raises(ScatterError) as raised:
        partly.init()
    assert list(raised.value.failures) == ["s3"]
    assert "nothing was changed" in str(raised.value)
    installed = router.scatter("select to_regnamespace('shardpool') is not null", shards=["s0", "s1", "s2"])
    assert all(result.one() == (False,) for result in installed.values())


def test_check_finds_what_is_wrong(router: Router) -> None:
    stray = next(key for key in range(100) if router.for_key(key, table="orders").shard == "s0")
    router.shard("s1").execute("insert into orders values (%s, 1, 'stray')", (stray,))
    router.shard("s2").execute("alter table orders add column extra int")
    router.shard("s3").execute("drop table countries")
    found = {finding.subject: finding.message for finding in router.check().errors}
    assert found["s1/orders"] == "1 rows lie here though their buckets belong to other shards"
    assert "+ extra integer" in found["s2/orders"]
    assert found["s3/countries"] == "the table does not exist here"


def test_a_moved_bucket_is_followed_by_a_route_that_was_kept(router: Router) -> None:
    route = router.for_key(1, table="orders")
    old = router.topology
    keyspace = old.keyspaces["tenants"]
    target = "s1" if route.shard != "s1" else "s2"
    owners = tuple(
        entry
        for owner in keyspace.owners
        for entry in (
            (
                replace(owner, last=route.bucket - 1),
                replace(owner, first=route.bucket, last=route.bucket, shard=target, epoch=old.epoch + 1),
                replace(owner, first=route.bucket + 1),
            )
            if owner.first <= route.bucket <= owner.last
            else (owner,)
        )
        if entry.first <= entry.last
    )
    moved = replace(keyspace, owners=owners)
    # What the shards know of it does not matter here.
    router.reload(replace(old, epoch=old.epoch + 1, keyspaces={**old.keyspaces, "tenants": moved}, control="none"))
    assert (route.shard, route.epoch) == (target, old.epoch + 1)
    assert router.for_key(1, table="orders").shard == target


def test_a_route_whose_interval_was_split_says_so(router: Router, topology_path: str) -> None:
    route = router.for_range(table="events")[0]
    other = router.for_range(table="events")[1]
    text = Path(topology_path).read_text(encoding="utf-8")
    text = re.sub(r"epoch: \d+", "epoch: 99\ncontrol: none", text)
    Path(topology_path).write_text(text.replace("range:", "range:\n      - {below: 2020-01-01, shard: s0}"))
    router.reload()
    assert router.topology.epoch == 99
    with pytest.raises(StaleTopology, match="no longer what it was"):
        _ = route.shard
    assert (other.shard, other.bucket) == ("s1", 2)


def test_a_bad_file_changes_nothing(router: Router, topology_path: str) -> None:
    before = router.topology
    file = Path(topology_path)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("shards:", "shrads:"), encoding="utf-8")
    with pytest.raises(ConfigError):
        router.reload()
    file.write_text(re.sub(r"epoch: \d+", "epoch: 1", text).replace("0-1023", "0-1022"), encoding="utf-8")
    with pytest.raises((StaleTopology, ConfigError)):
        router.reload()
    assert router.topology is before
    assert len(router.scatter("select 1")) == 4


def test_an_older_epoch_or_another_fleet_is_refused(router: Router) -> None:
    now = router.topology
    for bad in (replace(now, epoch=now.epoch - 1), replace(now, fleet="other"), replace(now, single_tables={})):
        with pytest.raises(StaleTopology):
            router.reload(bad)
    with pytest.raises(RouterMisuse, match="not from a file"), Router(now) as other:
        other.reload()


def test_reloads_under_load_break_no_call(router: Router) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    done = [0]

    def work(seed: int) -> None:
        key = seed
        while not stop.is_set():
            key += 4
            try:
                router.for_key(key % 1000, table="orders").execute("select 1")
                with router.for_key(key % 1000, table="orders").connection() as conn:
                    conn.execute("select 1")
                if not key % 40:
                    router.scatter("select 1")
            except BaseException as error:
                errors.append(error)
                return
            done[0] += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            now = router.topology
            name = f"s{number % 4}"
            # Another application_name is another endpoint: its pool is replaced.
            router.reload(replace(with_shard(now, name, application_name=f"n{number}"), epoch=now.epoch + 1))
            router.shard(name).execute("select 1")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert done[0] > 30


def test_a_pool_follows_the_size_in_the_topology(router: Router) -> None:
    router.shard("s0").execute("select 1")
    now = router.topology
    shard = now.shards["s0"]
    primary = replace(shard.primary, pool=replace(shard.primary.pool, max_size=3))
    pool = router._fleet.snapshot.shards["s0"].primary
    router.reload(replace(now, shards={**now.shards, "s0": replace(shard, primary=primary)}))
    assert router._fleet.snapshot.shards["s0"].primary is pool
    assert router.stats()["shards"]["s0"]["primary"]["pool"]["pool_max"] == 3


def test_shards_appear_and_go_at_run_time(router: Router) -> None:
    now = router.topology
    extra = replace(now.shards["s0"], name="s9")
    router.reload(replace(now, epoch=now.epoch + 1, shards={**now.shards, "s9": extra}, control="none"))
    assert router.shard("s9").execute("select 1").rows == [(1,)]
    gone = router.shard("s9")
    now = router.topology
    router.reload(replace(now, epoch=now.epoch + 1, shards={n: s for n, s in now.shards.items() if n != "s9"}))
    with pytest.raises(Exception, match="no shard"):
        gone.execute("select 1")


def test_a_forked_child_starts_afresh_and_leaves_the_parents_connections_alone(router: Router) -> None:
    parent = router.shard("s0").execute("select pg_backend_pid()").one()[0]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            own = router.shard("s0").execute("select pg_backend_pid()").one()[0]
            answers = router.scatter("select 1")
            os.write(write, f"{own} {len(answers)}".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    told = os.read(read, 100).decode().split()
    os.close(read)
    assert status == 0
    assert int(told[0]) != parent
    assert told[1] == "4"
    assert router.shard("s0").execute("select pg_backend_pid()").one()[0] == parent


def test_no_secret_is_shown(router: Router, topology_path: str) -> None:
    topology = router.topology
    secret = Path(topology.shards["s0"].primary.password_file or "").read_text(encoding="utf-8")
    shards = {
        name: replace(shard, primary=replace(shard.primary, password_file=None, password=Secret(secret)))
        for name, shard in topology.shards.items()
    }
    topology = with_shard(replace(topology, shards=shards), "s2", port="1")
    with Router(topology) as partly:
        with pytest.raises(ScatterError) as raised:
            partly.wait(0.3)
        shown = f"{raised.value!r}{raised.value}{partly.stats()}{partly!r}{partly.topology!r}{partly.check()}"
    assert len(secret) > 8
    assert secret not in shown
    assert load_topology(topology_path).fleet in shown
