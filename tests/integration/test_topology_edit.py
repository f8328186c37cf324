"""Edits of the topology as a person makes them: the file, the shards and the running routers, on real servers."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shardpool import Router, ScatterError, ShardUnavailable, load_topology
from tests.commands import run
from tests.integration.conftest import SCHEMA

COMMAND = [sys.executable, "-m", "shardpool", "topology"]


class Editor:
    """Runs `shardpool topology` in processes of their own, on the shop's topology file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.environment = {**os.environ, "SHARDPOOL_TOPOLOGY": path}

    def begin(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> str:
        done = run(["topology", *arguments], env={**self.environment, **more})
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.stderr = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        told = json.loads(self(*arguments, "--json", code=code))
        assert told.pop("format_version") == 1
        return told

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def epoch(self) -> int:
        return load_topology(self.path).epoch


@pytest.fixture
def editor(topology_path: str) -> Editor:
    return Editor(topology_path)


def epochs(path: Path) -> set[tuple[int, int]]:
    """(epoch of the topology, highest epoch of owners), as the shards have them."""
    query = "select epoch, (select max(epoch) from shardpool.owner) from shardpool.meta"
    with Router(path) as router:
        return {result.one() for result in router.scatter(query).values()}


@contextmanager
def waited_for(editor: Editor) -> Iterator[None]:
    """A router that does not go over to a new topology: an edit waits for it as long as it waits for anybody."""
    with Router(load_topology(editor.path)) as late:
        late.scatter("select 1")
        yield


def test_a_table_is_placed_anew_by_an_edit_and_not_by_hand(editor: Editor, tmp_path: Path) -> None:
    placed = "select tables->>'public.audit_log' from shardpool.meta"
    right = editor.text
    wrong = right.replace("{audit_log: s0}", "{audit_log: s1}")
    assert wrong != right
    editor.path.write_text(wrong, encoding="utf-8")
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "table public.audit_log is on s0 there, on s1 here" in editor.stderr
    assert "shardpool topology apply COPY" in editor.stderr
    editor.path.write_text(right, encoding="utf-8")
    copy = tmp_path / "copy.yaml"
    copy.write_text(wrong, encoding="utf-8")
    with Router(editor.path) as before:
        assert {result.one() for result in before.scatter(placed).values()} == {('["on s0"]',)}
        before.shard("s1").execute("create table audit_log (what text)")
        editor("apply", str(copy))
    with Router(editor.path) as after:
        assert {result.one() for result in after.scatter(placed).values()} == {('["on s1"]',)}
        after.execute("insert into audit_log values ('there')")
    assert "0 errors" in editor("check")


def test_set_touches_one_line_and_the_epoch_and_is_recorded(editor: Editor) -> None:
    before, epoch = editor.text, editor.epoch
    editor.path.chmod(0o640)
    out = editor("set", "shards.s2.pool.max_size", "20", "--author", "ada")
    assert "shard s2: primary.pool.max_size: 10 → 20" in out
    topology = load_topology(editor.path)
    assert topology.epoch == epoch + 1 and topology.shards["s2"].primary.pool.max_size == 20
    assert stat.S_IMODE(editor.path.stat().st_mode) == 0o640
    assert {
        entry.name for entry in editor.path.parent.iterdir() if entry.name.startswith(f".{editor.path.name}")
    } == set()
    added = set(editor.text.splitlines()) - set(before.splitlines())
    assert len(added) <= 3 and f"epoch: {epoch + 1}" in added
    (change,) = editor.json("history")["changes"]
    assert (change["author"], change["outcome"], change["epoch"]) == ("ada", "done", epoch + 1)
    assert change["change"].startswith("set shards.s2.pool.max_size 20")
    assert change["shards"] == ["s0", "s1", "s2", "s3"]
    assert "nothing to change" in editor("set", "shards.s2.pool.max_size", "20")


@pytest.fixture
def keys(router: Router) -> list[int]:
    """Keys with a row each, on all four shards."""
    found = list(range(40))
    for key in found:
        router.for_key(key, table="orders").execute("insert into orders values (%s, 1, 'x')", (key,))
    return found


def on(router: Router, shard: str, keys: list[int]) -> list[int]:
    return [key for key in keys if router.for_key(key, table="orders").shard == shard]


def test_buckets_with_rows_are_refused_with_the_numbers(editor: Editor, router: Router, keys: list[int]) -> None:
    before, mine = editor.text, len(on(router, "s3", keys))
    hashed = len({router.for_key(key, table="orders").bucket for key in on(router, "s3", keys)})
    planned = editor.json("shard", "drain", "s3", "--dry-run", code=1)
    assert planned["buckets"] == 1024 + 1 and planned["rows"] == mine
    assert planned["lost"] == [{"shard": "s3", "table": "public.orders", "rows": mine, "buckets": hashed}]
    editor("shard", "drain", "s3", code=1)
    assert f"{mine} rows lie in buckets that would change their owner" in editor.stderr
    assert "With --empty" in editor.stderr
    assert f"shard s3: {mine} rows of orders in {hashed} buckets" in editor.stderr
    assert editor.text == before
    assert editor.json("history")["changes"] == []
    assert router.check().ok


def test_an_empty_shard_is_added_fed_drained_and_removed(
    editor: Editor, router: Router, server_dsn: str, keys: list[int]
) -> None:
    there = conninfo_to_dict(server_dsn)
    password_file = editor.path.with_name("password-s4")
    password_file.write_text(str(there["password"]), encoding="utf-8")
    defaults = f"defaults: {{connect: {{user: app, password_file: {password_file}}}}}\nshards:\n"
    editor.path.write_text(editor.text.replace("shards:\n", defaults, 1), encoding="utf-8")
    before, epoch = editor.text, editor.epoch
    add = ["shard", "add", "s4", f"postgresql://{there['host']}:{there['port']}/{there['dbname']}"]
    editor(*add, code=1)
    assert "Missing: orders on s4, events on s4, stores on s4, countries on s4" in editor.stderr
    assert editor.text == before
    with psycopg.connect(server_dsn, autocommit=True) as bare:
        bare.execute(SCHEMA)
    assert "s4" in editor(*add)
    assert "s4" in load_topology(editor.path).shards
    assert "0 errors" in editor("check")
    with Router(editor.path) as wide:
        assert wide.shard("s4").execute("select shard from shardpool.self").one() == ("s4",)
        free = next(key for key in range(1000, 2000) if wide.for_key(key, table="orders").shard == "s0")
        wide.shard("s4").execute("drop table orders")
        editor("pin", str(free), "s4", "--settle", "0", code=1)
        assert "Missing: orders on s4" in editor.stderr
        wide.shard("s4").execute("create table orders (tenant_id bigint not null, n int not null, note text)")
        assert "key 1" in editor("pin", str(free), "s4", "--settle", "0")
        wide.reload()
        wide.for_key(free, table="orders").execute("insert into orders values (%s, 1, 'there')", (free,))
        assert wide.shard("s4").execute("select note from orders").one() == ("there",)
        wide.shard("s4").execute("delete from orders")
    editor("shard", "remove", "s4", code=1)
    assert "it owns 1 bucket of keyspace tenants" in editor.stderr
    editor("unpin", str(free), "--settle", "0")
    editor("shard", "remove", "s4")
    assert editor.epoch == epoch + 4
    assert editor.text == before.replace(f"epoch: {epoch}", f"epoch: {epoch + 4}")
    assert len(editor.json("history")["changes"]) == 4


def test_a_range_is_split_and_a_shard_renamed_while_a_router_goes_on(
    editor: Editor, router: Router, keys: list[int]
) -> None:
    old_name, mine = Router(load_topology(editor.path)), len(on(router, "s1", keys))
    with Router(editor.path) as follower, old_name:
        editor("split", "2030-01-01", "--to", "s3", "--settle", "0")
        follower.reload()
        assert follower.for_key("2030-06-01", table="events").shard == "s3"
        assert follower.for_key("2029-06-01", table="events").shard == "s2"
        editor("rename", "s1", "east")
        with Router(editor.path) as fresh:
            assert fresh.shard("east").execute("select count(*) from orders").one() == (mine,)
            assert fresh.check().ok, str(fresh.check())
        follower.reload()
        assert follower.shard("east").execute("select 1").one() == (1,)
    lines = [line for line in editor.text.splitlines() if "east" in line or "s1" in line]
    assert not [line for line in lines if "s1" in line]


def test_of_two_editors_on_one_file_the_second_is_told(editor: Editor, router: Router) -> None:
    free = next(key for key in range(1000, 2000) if router.for_key(key, table="orders").shard == "s0")
    with waited_for(editor), editor.begin("pin", str(free), "s1", "--settle", "3") as first:
        assert first.stderr is not None
        while "letting running routers" not in first.stderr.readline():
            pass
        editor("set", "shards.s2.pool.max_size", "20", code=1)
        assert "is being edited by another process" in editor.stderr
        assert first.wait(timeout=30) == 0
    editor("set", "shards.s2.pool.max_size", "20")


def test_of_two_editors_with_a_file_each_one_wins_on_the_shards(editor: Editor, tmp_path: Path) -> None:
    copies = []
    for number in range(2):
        copy = tmp_path / f"machine-{number}" / "topology.yaml"
        copy.parent.mkdir()
        copy.write_text(editor.text, encoding="utf-8")
        copies.append(Editor(str(copy)))
    running = [copy.begin("set", "shards.s2.pool.max_size", str(20 + at)) for at, copy in enumerate(copies)]
    told = [process.communicate(timeout=60)[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 1], told
    loser = codes.index(1)
    assert any(what in told[loser] for what in ("starts from epoch", "is editing this topology", "is not finished"))
    assert copies[loser].text == editor.text
    copies[loser]("set", "shards.s2.pool.max_size", "7", code=1)
    assert "Somebody else was first" in copies[loser].stderr and "set shards.s2.pool.max_size" in copies[loser].stderr


def test_apply_takes_a_copy_and_refuses_one_of_an_older_epoch(editor: Editor, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(editor.text.replace("[countries]", "[countries, currencies]"), encoding="utf-8")
    second.write_text(editor.text.replace("{audit_log: s0}", "{audit_log: s1}"), encoding="utf-8")
    assert "reference table currencies is new" in editor("diff", str(editor.path), str(first))
    assert "reference table currencies is new" in editor("plan", str(first))
    editor("apply", str(first))
    assert "currencies" in editor.text
    assert "nothing to change" in editor("apply", str(first))
    editor("apply", str(second), code=1)
    assert "Somebody else was first" in editor.stderr
    raised = tmp_path / "raised.yaml"
    raised.write_text(editor.text.replace(f"epoch: {editor.epoch}", "epoch: 99"), encoding="utf-8")
    editor("apply", str(raised), code=1)
    assert "Leave the epoch as it is" in editor.stderr


def test_a_link_in_the_place_of_the_file_or_of_the_new_one_is_not_followed(editor: Editor, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    planted = editor.path.with_name(f".{editor.path.name}.new")
    planted.symlink_to(victim)
    before = editor.text
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "is in the way: it is no plain file" in editor.stderr
    assert victim.read_text(encoding="utf-8") == "precious" and editor.text == before
    planted.unlink()
    editor("set", "shards.s2.pool.max_size", "20")

    link = tmp_path / "link.yaml"
    link.symlink_to(editor.path)
    editor("-h")
    Editor(str(link))("set", "shards.s2.pool.max_size", "21", code=1)
    assert link.is_symlink() and "max_size: 20" in editor.text


def test_a_file_that_is_changed_by_hand_in_between_is_left_alone(editor: Editor) -> None:
    script = (
        "import sys, pathlib, shardpool.cli.edit.running as edit\n"
        "FILE = sys.argv.pop(1)\n"
        "class ByHand(dict):\n"
        "    def __getitem__(self, step):\n"
        "        if step == 'file':\n"
        "            path = pathlib.Path(FILE); path.write_text(path.read_text() + '# by hand\\n')\n"
        "        return step\n"
        "edit._SAID = ByHand()\n"
        "from shardpool.cli import main; main()\n"
    )
    arguments = [str(editor.path), "topology", "set", "shards.s2.pool.max_size", "20"]
    done = run(arguments, env=editor.environment, script=script)
    assert done.returncode == 1 and "was changed by somebody else" in done.stderr, done.stderr
    assert editor.text.endswith("# by hand\n") and "max_size: 20" not in editor.text
    assert [change["outcome"] for change in editor.json("history")["changes"]] == ["given up"]
    editor("set", "shards.s2.pool.max_size", "20")
    assert "# by hand" in editor.text


_KILLED_AT = """
import os, sys
import shardpool.cli.edit.running as edit
STEP = sys.argv.pop(1)
class Killed(dict):
    def __getitem__(self, step):
        if step == STEP:
            os.kill(os.getpid(), 9)
        return step
edit._SAID = Killed()
from shardpool.cli import main
main()
"""


def killed_at(editor: Editor, step: str, *arguments: str) -> None:
    """An edit whose process is killed just before a step."""
    assert run([step, "topology", *arguments], env=editor.environment, script=_KILLED_AT).returncode == -9


def free_key(router: Router, shard: str) -> int:
    return next(key for key in range(1000, 9000) if router.for_key(key, table="orders").shard == shard)


def test_a_fence_of_an_edit_that_was_given_up_refuses_nobody(editor: Editor, router: Router) -> None:
    key = free_key(router, "s0")
    killed_at(editor, "file", "pin", str(key), "s1", "--settle", "0")
    editor("set", "shards.s2.pool.max_size", "20", "--take-over")
    assert router.for_key(key, table="orders").execute("insert into orders values (%s, 1, 'x')", (key,)).rowcount == 1


def test_check_tells_of_a_file_that_is_an_older_copy(editor: Editor) -> None:
    older, epoch = editor.text, editor.epoch
    editor("set", "shards.s2.pool.max_size", "20")
    editor.path.write_text(older, encoding="utf-8")
    told = editor("check")
    assert f"warning s0/primary: it is at epoch {epoch + 1}, and this topology is of epoch {epoch}:" in told
    assert "Take the newest file" in told


def test_check_and_the_next_command_tell_of_an_edit_that_was_killed(editor: Editor, router: Router) -> None:
    key = free_key(router, "s0")
    killed_at(editor, "finish", "pin", str(key), "s1", "--settle", "0")
    told = editor("check", code=1)
    assert f"warning s0/primary: the edit to epoch {editor.epoch} (pin {key} s1), begun by" in told
    # A comment by hand changes nothing of what the edit means.
    editor.path.write_text(editor.text + "# by hand\n", encoding="utf-8")
    editor("set", "shards.s2.pool.max_size", "20", "--settle", "0")
    assert f"it is finished now (pin {key} s1)" in editor.stderr
    assert [change["outcome"] for change in editor.json("history")["changes"]] == ["done", "done"]
    assert "0 errors, 0 warnings" in editor("check")


def test_a_shard_that_leaves_is_told_when_the_edit_is_gone_on_with(editor: Editor, tmp_path: Path) -> None:
    before, left = editor.text, load_topology(editor.path)
    start = before.index("  s3:\n")
    gone = before[start : before.index("keyspaces:")]
    after = (
        before.replace(gone, "").replace("s2: 2048-3071, s3: 3072-4095", "s2: 2048-4095").replace("17: s3", "17: s2")
    )
    new = tmp_path / "new.yaml"
    new.write_text(after, encoding="utf-8")
    killed_at(editor, "finish", "apply", str(new), "--settle", "0")
    editor("apply", str(new), "--settle", "0")
    query = "select outcome, (select count(*) from shardpool.owner where shard = 's3') from shardpool.history"
    s3 = left.shards["s3"].primary
    password = Path(s3.password_file or "").read_text(encoding="utf-8")
    with psycopg.connect(**dict(s3.params), password=password) as conn:  # type: ignore[arg-type]
        assert conn.execute(query).fetchall() == [("done", 0)]
    # And it may come back.
    new.write_text(editor.text.replace("keyspaces:\n", gone + "keyspaces:\n", 1), encoding="utf-8")
    editor("apply", str(new))
    assert "0 errors, 0 warnings" in editor("check")


def test_a_file_whose_owners_were_changed_by_hand_is_not_edited(editor: Editor, keys: list[int]) -> None:
    by_hand = editor.text.replace("{s0: 0-1023, s1: 1024-2047", "{s1: 0-1023, s0: 1024-2047")
    editor.path.write_text(by_hand, encoding="utf-8")
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "knows other owners of 2048 buckets of keyspace tenants" in editor.stderr
    assert "changed by hand" in editor.stderr and editor.text == by_hand
    moved = by_hand.replace("{s1: 0-1023, s0: 1024-2047", "{s0: 0-1023, s1: 1024-2047").replace(
        "2025-01-01", "2024-01-01"
    )
    editor.path.write_text(moved, encoding="utf-8")
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "knows other owners of some keys of keyspace events" in editor.stderr


def test_tables_that_hold_rows_are_not_placed_in_another_way(editor: Editor, router: Router, keys: list[int]) -> None:
    router.execute("insert into audit_log values ('x')")
    before = editor.text
    for path, value, told in (
        ("single_tables.audit_log", "s1", "shard s0: 1 row of audit_log"),
        ("keyspaces.tenants.tables.orders", "'n'", "rows of orders"),
    ):
        editor("set", path, value, code=1)
        assert "where nobody would look for" in editor.stderr and told in editor.stderr
        assert editor.text == before
    router.execute("delete from audit_log")
    router.shard("s1").execute("create table audit_log (what text)")
    editor("set", "single_tables.audit_log", "s1", "--settle", "0")
    with router.shard("s0").connection() as late, pytest.raises(psycopg.Error, match="has given away") as refused:
        late.execute("insert into audit_log values ('late')")
    assert refused.value.sqlstate == "RS001"
    editor("set", "single_tables.audit_log", "s0", "--settle", "0")
    with Router(editor.path) as fresh:
        fresh.execute("insert into audit_log values ('back')")


def test_a_key_that_nobody_owns_any_more_is_fenced_and_may_come_back(editor: Editor, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    with Router(load_topology(editor.path)) as stale, stale.shard("s1").connection() as late:
        new.write_text(editor.text.replace("s1: [us, ca]", "s1: [us]"), encoding="utf-8")
        editor("apply", str(new), "--settle", "0")
        with pytest.raises(psycopg.Error, match="has given away"):
            late.execute("insert into stores values ('ca', 'late')")
    new.write_text(editor.text.replace("s1: [us]", "s1: [us, ca]"), encoding="utf-8")
    editor("apply", str(new), "--settle", "0")
    with Router(editor.path) as fresh:
        fresh.for_key("ca", table="stores").execute("insert into stores values ('ca', 'back')")


def test_empty_buckets_are_drained_and_the_others_told(editor: Editor, router: Router, keys: list[int]) -> None:
    router.for_key("us", table="stores").execute("insert into stores values ('us', 'x')")
    mine = len({router.for_key(key, table="orders").bucket for key in on(router, "s1", keys)})
    editor("shard", "drain", "s1", "--empty", "--settle", "0", code=1)
    assert f"rows of orders in {mine} buckets; shard s1: 1 row of stores in 1 bucket" in editor.stderr
    topology = load_topology(editor.path)
    assert topology.keyspace("tenants").shard_by_bucket.count("s1") == mine
    assert "s1" not in topology.keyspace("events").owning_shards
    assert topology.keyspace("regions").shard_by_bucket.count("s1") == 1
    assert "0 errors, 0 warnings" in editor("check")
    editor("shard", "drain", "s1", "--empty", "--settle", "0", code=1)
    assert "all that shard s1 owns holds rows" in editor.stderr
    router.reload()
    router.scatter("delete from orders")
    router.scatter("delete from stores")
    editor("shard", "drain", "s1", "--empty", "--settle", "0")
    editor("shard", "remove", "s1")


def test_init_leaves_owners_that_did_not_change_their_epoch(editor: Editor, router: Router) -> None:
    epoch = editor.epoch
    editor("set", "shards.s2.pool.max_size", "20")
    with Router(editor.path) as fresh:
        fresh.init()
    assert epochs(editor.path) == {(epoch + 1, epoch)}
    editor("pin", str(free_key(router, "s0")), "s1", "--settle", "0")
    query = "select distinct epoch from shardpool.owner where keyspace = 'tenants' and first_bucket < 4096"
    with Router(editor.path) as newest:
        newest.init()
        assert newest.shard("s0").execute(query).one() == (epoch,)
    assert epochs(editor.path) == {(epoch + 2, epoch + 2)}


def test_init_with_an_older_file_of_other_owners_is_refused(editor: Editor, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(editor.text.replace("s0: [de, fr], s1: [us, ca]", "s0: [de, fr, ca], s1: [us]"), encoding="utf-8")
    copy.write_text(copy.read_text(encoding="utf-8").replace("epoch: 5", "epoch: 6"), encoding="utf-8")
    for size in ("20", "21"):
        editor("set", "shards.s2.pool.max_size", size)
    with Router(copy) as old, pytest.raises(ScatterError, match="the fleet is at epoch 7"):
        old.init()


def test_history_is_told_while_a_shard_is_down(editor: Editor) -> None:
    editor("set", "shards.s2.pool.max_size", "20")
    dead = "  dead: {primary: {host: 127.0.0.1, port: 1, dbname: none}}\nkeyspaces:\n"
    editor.path.write_text(editor.text.replace("keyspaces:\n", dead, 1), encoding="utf-8")
    assert "set shards.s2.pool.max_size 20" in editor("history")
    assert "shard dead is not asked: shard dead cannot be reached" in editor.stderr
    told = editor.json("history")
    assert len(told["changes"]) == 1 and list(told["unreached"]) == ["dead"]


def test_an_edit_that_loses_on_one_shard_leaves_nothing_begun(editor: Editor, router: Router) -> None:
    """As when two editors ask different shards first, because one of them removes the shard that the other asks."""
    other = "select shardpool.begin_edit(5, 6, 'other', 'theirs', 'bob', '{\"owners\": {}, \"renames\": {}}', false)"
    router.shard("s2").execute(other)
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "by bob" in editor.stderr and "theirs" in editor.stderr
    query = "select count(*) from shardpool.history where outcome = 'begun' and author <> 'bob'"
    assert {result.one() for result in router.scatter(query).values()} == {(0,)}


def test_an_edit_that_is_interrupted_says_how_it_goes_on(editor: Editor, router: Router) -> None:
    command = ["pin", str(free_key(router, "s0")), "s1"]
    with waited_for(editor), editor.begin(*command) as process:
        assert process.stderr is not None
        while "letting running routers" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Run the same command again" in told and "Traceback" not in told
    editor(*command, "--settle", "0")
    assert "0 errors, 0 warnings" in editor("check")


def test_a_plan_says_no_where_apply_would(editor: Editor, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(editor.text.replace(f"epoch: {editor.epoch}", "epoch: 3"), encoding="utf-8")
    editor("plan", str(new), code=1)
    assert "is of epoch 3" in editor.stderr
    editor("apply", str(editor.path), code=2)
    assert "NEW is the topology file itself" in editor.stderr
    editor("set", "epoch", "9", code=2)
    assert "the epoch is raised by every edit" in editor.stderr


def test_a_shard_with_owners_of_an_older_copy_is_told_of(editor: Editor, router: Router) -> None:
    older = "select keyspace, first_bucket, last_bucket, shard, epoch into older from shardpool.owner"
    router.shard("s1").execute(older)
    editor("pin", str(free_key(router, "s0")), "s1", "--settle", "0")
    with Router(editor.path) as fresh:
        restore = "delete from shardpool.owner; insert into shardpool.owner select * from older; drop table older"
        with fresh.shard("s1").connection() as conn:
            for statement in (*restore.split("; "), "update shardpool.meta set epoch = 0"):
                conn.execute(statement)
        editor("set", "shards.s2.pool.max_size", "20", code=1)
        assert "shard s1 knows other owners of 1 bucket" in editor.stderr
        fresh.init()
    editor("set", "shards.s2.pool.max_size", "20")
    assert "0 errors, 0 warnings" in editor("check")


def test_writers_that_hold_up_a_fence_are_named(editor: Editor, router: Router) -> None:
    before = editor.text
    keys = [key for key in range(1000, 2000) if router.for_key(key, table="orders").shard == "s0"][:2]
    with router.shard("s0").connection() as held:
        held.execute("insert into orders values (%s, 1, 'open')", (keys[0],))
        editor("pin", str(keys[1]), "s1", code=1)
        held.rollback()
    assert "table orders is held by writers: process" in editor.stderr and "idle in transaction" in editor.stderr
    assert editor.text == before
    assert [change["outcome"] for change in editor.json("history")["changes"]] == ["given up"]


_KILLED = """
import os, sys
from psycopg import AsyncCursor
left = int(sys.argv.pop(1))
def count():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
def counted(function):
    def call(*args, **kwargs):
        count()
        return function(*args, **kwargs)
    return call
AsyncCursor.execute = counted(AsyncCursor.execute)
for name in ("rename", "fsync", "fchmod"):
    setattr(os, name, counted(getattr(os, name)))
from shardpool.cli import main
main()
"""


def test_an_edit_that_is_killed_anywhere_is_finished_by_the_same_command(editor: Editor, router: Router) -> None:
    free = [key for key in range(1000, 2000) if router.for_key(key, table="orders").shard == "s0"]
    killed = 0
    for at in range(0, 400, 31):
        key = free.pop()
        epoch = editor.epoch
        command = ["topology", "pin", str(key), "s1", "--settle", "0"]
        done = run([str(at), *command], env=editor.environment, script=_KILLED)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        killed += 1
        load_topology(editor.path)
        editor(*command[1:])
        assert editor.epoch == epoch + 1
        assert load_topology(editor.path).keyspace("tenants").partitioning.pinned[-1] == key
        assert epochs(editor.path) == {(epoch + 1, epoch + 1)}
        assert editor.json("history", "-n", "1")["changes"][0]["outcome"] == "done"
    assert killed > 5 and done.returncode == 0
    with Router(editor.path) as fresh:
        assert fresh.check().ok, str(fresh.check())


def test_a_router_under_load_during_an_edit_sees_no_error(editor: Editor, keys: list[int]) -> None:
    errors: list[BaseException] = []
    calls = [0] * 4
    done = threading.Event()
    with Router(editor.path, reload_interval=0.2) as running:
        free = [key for key in range(1000, 3000) if running.for_key(key, table="orders").shard == "s0"]

        def work(number: int) -> None:
            while not done.is_set():
                key = keys[calls[number] % len(keys)]
                try:
                    running.for_key(key, table="orders").execute(
                        "insert into orders values (%s, %s, 'load')", (key, 10 + 4 * calls[number] + number)
                    )
                    found = running.execute("select count(*) from orders where tenant_id = %s and n = 1", (key,))
                    assert found.one() == (1,)
                    calls[number] += 1
                except BaseException as error:
                    errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for key in free[:2]:
                editor("pin", str(key), "s2", "--settle", "1.5")
            editor("set", "shards.s2.pool.max_size", "20")
            editor("rename", "s1", "east")
            editor("split", "2031-01-01", "--to", "s0", "--settle", "1.5")
        finally:
            done.set()
            for thread in threads:
                thread.join(30)
        assert not errors, errors[:3]
        assert running.topology.epoch == editor.epoch and sum(calls) > 100
    with Router(editor.path) as fresh:
        total = sum(result.one()[0] for result in fresh.scatter("select count(*) from orders").values())
        assert total == sum(calls) + len(keys)
        assert fresh.check().ok, str(fresh.check())


def test_a_router_with_an_older_file_is_told_and_writes_nothing_to_the_old_owner(
    editor: Editor, router: Router
) -> None:
    free = next(key for key in range(1000, 2000) if router.for_key(key, table="orders").shard == "s0")
    with Router(load_topology(editor.path)) as stale, stale.shard("s0").connection() as held:
        editor("set", "shards.s2.pool.max_size", "20")
        assert stale.shard("s1").execute("select 1").one() == (1,)
        assert stale.stats()["newest_epoch_seen"] == editor.epoch
        editor("pin", str(free), "s1", "--settle", "0")
        with pytest.raises(ShardUnavailable, match="newer epoch") as raised:
            stale.shard("s2").execute("select 1")
        assert f"epoch {editor.epoch}" in str(raised.value)
        with pytest.raises(psycopg.Error, match="has given away the bucket") as refused:
            held.execute("insert into orders values (%s, 1, 'late')", (free,))
        assert refused.value.sqlstate == "RS001"
    with Router(editor.path) as fresh:
        fresh.for_key(free, table="orders").execute("insert into orders values (%s, 1, 'right')", (free,))
        assert fresh.for_key(free, table="orders").shard == "s1"


def test_rows_that_come_between_the_count_and_the_fence_end_the_edit(editor: Editor, router: Router) -> None:
    free = next(key for key in range(1000, 2000) if router.for_key(key, table="orders").shard == "s0")
    script = (
        "import shardpool.cli.edit.running as edit, psycopg, sys\n"
        "from shardpool import Router\n"
        "PATH, KEY = sys.argv.pop(1), int(sys.argv[3])\n"
        "class Late(dict):\n"
        "    def __getitem__(self, step):\n"
        "        if step == 'fence':\n"
        "            with Router(PATH, reload_interval=None) as router:\n"
        "                route = router.for_key(KEY, table='orders')\n"
        "                route.execute('insert into orders values (%s, 1, %s)', (KEY, 'x'))\n"
        "        return step\n"
        "edit._SAID = Late()\n"
        "from shardpool.cli import main; main()\n"
    )
    before = editor.text
    arguments = [str(editor.path), "topology", "pin", str(free), "s1", "--settle", "0"]
    done = run(arguments, env=editor.environment, script=script)
    assert done.returncode == 1 and "1 row lies in buckets" in done.stderr, done.stderr
    assert editor.text == before
    assert [change["outcome"] for change in editor.json("history")["changes"]] == ["given up"]
    router.for_key(free, table="orders").execute("insert into orders values (%s, 2, 'still here')", (free,))
    fences = router.scatter("select count(*) from pg_trigger where tgname = 'shardpool_fence'")
    assert {result.one() for result in fences.values()} == {(0,)}


def test_an_edit_that_nobody_will_finish_is_taken_over(editor: Editor, router: Router) -> None:
    epoch = editor.epoch
    killed_at(editor, "file", "set", "shards.s2.pool.max_size", "20")
    assert editor.epoch == epoch
    editor("set", "shards.s2.pool.max_size", "30", code=1)
    assert "another edit was begun and is not finished" in editor.stderr
    assert "set shards.s2.pool.max_size 20" in editor.stderr and "--take-over" in editor.stderr
    editor("set", "shards.s2.pool.max_size", "30", "--take-over")
    assert editor.epoch == epoch + 2
    assert [change["outcome"] for change in editor.json("history")["changes"]] == ["done", "given up"]


def test_an_edit_of_an_older_schema_brings_it_up_to_date(editor: Editor, router: Router) -> None:
    router.scatter("drop table shardpool.history; drop function shardpool.refuse_row cascade")
    router.scatter("alter table shardpool.meta drop column epoch; alter table shardpool.self drop column also")
    with Router(editor.path) as bare:
        assert bare.check().ok
        editor("set", "shards.s2.pool.max_size", "20")
        bare.init()
    assert len(editor.json("history")["changes"]) == 1


def test_passwords_are_in_no_output_and_no_record(editor: Editor, tmp_path: Path) -> None:
    text = editor.text.replace("shards:\n", "plain_passwords: allow\nshards:\n", 1)
    editor.path.write_text(text, encoding="utf-8")
    out = editor("set", "shards.s3.connect.password", "hunter2horse", "--dry-run") + editor.stderr
    out += editor("set", "shards.s3.connect.password", "hunter2horse")
    out += (
        editor("set", "shards.s3.primary.dbname", "nowhere", code=1)
        + editor.stderr
        + json.dumps(editor.json("history"))
    )
    assert "***" in out and "hunter2horse" not in out


def test_an_empty_shard_is_drained_and_removed_and_a_dead_one_too(editor: Editor, router: Router) -> None:
    editor("shard", "drain", "s3", "--to", "s0", "--to", "s1", "--settle", "0")
    editor("shard", "remove", "s3")
    topology = load_topology(editor.path)
    assert list(topology.shards) == ["s0", "s1", "s2"]
    with Router(editor.path) as fresh:
        assert fresh.check().ok, str(fresh.check())
    dead = "  dead: {primary: {host: 127.0.0.1, port: 1, dbname: none}}\nkeyspaces:\n"
    editor.path.write_text(editor.text.replace("keyspaces:\n", dead, 1), encoding="utf-8")
    before = editor.text
    editor("set", "shards.s2.pool.max_size", "20", code=1)
    assert "shard dead cannot be reached" in editor.stderr and editor.text == before
    editor("shard", "remove", "dead")
    assert "dead" not in editor.text


def test_names_of_shards_and_paths_are_completed(editor: Editor) -> None:
    def completed(line: str) -> list[str]:
        words = {
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "_SHARDPOOL_COMPLETE": "bash_complete",
        }
        done = run([], env={**editor.environment, **words})
        return [item.partition(",")[2] for item in done.stdout.splitlines()]

    assert completed("shardpool topology rename s") == ["s0", "s1", "s2", "s3"]
    assert completed("shardpool topology shard drain s") == ["s0", "s1", "s2", "s3"]
    assert completed("shardpool topology set shards.s") == ["shards.s0", "shards.s1", "shards.s2", "shards.s3"]
