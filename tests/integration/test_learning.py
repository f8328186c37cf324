"""Routers whose file is older than what the shards say: they take the topology over from the shards."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from shardpool import AsyncRouter, Router, ScatterError, ShardUnavailable, StaleTopology, load_topology
from shardpool.config import document, document_data, read_document
from shardpool.events import ReloadFailed
from shardpool.succession import placements_differ
from tests.integration.test_reload_file import Told, until
from tests.integration.test_topology_edit import Editor
from tests.moves.fleet import connect

INSERT = "insert into orders values (%s, %s, '')"
PIN = "7"


@pytest.fixture
def editor(topology_path: str) -> Editor:
    return Editor(topology_path)


@pytest.fixture
def older(topology_path: str, tmp_path: Path) -> Path:
    """The file as another machine has it, to which no edit is rolled out."""
    copy = tmp_path / "older.yaml"
    copy.write_text(Path(topology_path).read_text(encoding="utf-8"), encoding="utf-8")
    return copy


def test_a_router_that_starts_with_an_older_file_comes_up_on_the_current_map(editor: Editor, older: Path) -> None:
    editor("pin", PIN, "s2", "--settle", "0")
    editor("rename", "s3", "s9", "--settle", "0")
    with Router(older, reload_interval=60) as behind:
        assert behind.topology.epoch == 5
        behind.execute(INSERT, (7, 1), timeout=30)
        assert behind.topology.epoch == 7 and behind.shards == ("s0", "s1", "s2", "s9")
        assert behind.for_key(7, table="orders").shard == "s2"
        assert behind.shard("s9").execute("select shard from shardpool.self").one() == ("s9",)
        assert behind.check().ok
        # A file that is rolled out later, and is older still, is no error, and nothing goes back.
        older.write_text(older.read_text().replace("epoch: 5", "epoch: 6"), encoding="utf-8")
        assert behind.reload().epoch == 7
        assert behind.stats()["reload"]["from_shards"] == 1

    async def also_async() -> int:
        async with AsyncRouter(older, reload_interval=60) as router:
            await router.execute("select count(*) from orders where tenant_id = 7")
            return router.topology.epoch

    assert asyncio.run(also_async()) == 7


def test_a_router_with_open_connections_hears_of_it_without_a_new_one(editor: Editor, older: Path) -> None:
    told = Told()
    with Router(older, reload_interval=0.1, observers=[told]) as behind:
        behind.scatter("select 1")
        route = behind.for_key(7, table="orders")
        editor("pin", PIN, "s2", "--settle", "0")
        until(lambda: behind.topology.epoch == 6)
        route.execute(INSERT, (7, 1), timeout=30)
        assert behind.for_key(7, table="orders").shard == "s2"
        assert behind.shard("s2").execute("select count(*) from orders").one() == (1,)
        editor("set", "defaults.pool.max_size", "3")
        until(lambda: behind.topology.epoch == 7)
        # Pools are each file's own.
        assert {shard.primary.pool.max_size for shard in behind.topology.shards.values()} == {10}
        assert not told.of(ReloadFailed)


def test_a_file_that_says_so_is_followed_alone(editor: Editor, older: Path) -> None:
    older.write_text(older.read_text(encoding="utf-8") + "topology: file\n", encoding="utf-8")
    editor("pin", PIN, "s2", "--settle", "0")
    with Router(older, reload_interval=0.1) as behind:
        with pytest.raises(ShardUnavailable, match="newer epoch"):
            behind.shard("s1").execute("select 1", timeout=3)
        assert behind.topology.epoch == 5


def test_what_shards_do_not_agree_on_is_not_taken_over(editor: Editor, older: Path, router: Router) -> None:
    editor("pin", PIN, "s2", "--settle", "0")
    topology = load_topology(editor.path)
    row = replace(topology, epoch=9, single_tables={**topology.single_tables, "public.more": "s3"})
    publish = "select shardpool.publish_topology(%s)"
    router.shard("s0").execute(publish, (document(row),))
    other = replace(row, single_tables={**topology.single_tables, "public.more": "s1"})
    router.shard("s1").execute(publish, (document(other),))
    with Router(older, reload_interval=60) as behind:
        behind.execute(INSERT, (7, 1), timeout=30)
        # Epoch 6, of which all know; of 9 one says this and another that.
        assert behind.topology.epoch == 6
    for shard in ("s1", "s2", "s3"):
        router.shard(shard).execute("delete from shardpool.topology where epoch = 9")
        router.shard(shard).execute(publish, (document(row),))
    with Router(older, reload_interval=0.05) as behind:
        # A call is held for two seconds at most: on a busy machine they may be over before all shards have answered.
        with suppress(ScatterError):
            behind.scatter("select 1", timeout=30)
        until(lambda: behind.topology.epoch == 9)
        assert len(behind.scatter("select 1", timeout=30)) == 4
    # An edition that is none changes nothing, and is told.
    broken = document(replace(row, epoch=10)).replace('"shard":"s0"', '"shard":"s7"')
    for shard in router.shards:
        router.shard(shard).execute(publish, (broken,))
    told = Told()
    with Router(older, reload_interval=0.05, observers=[told]) as behind:
        with pytest.raises(ScatterError):
            behind.scatter("select 1", timeout=30)
        until(lambda: told.of(ReloadFailed))
        assert "what the shards have published" in behind.stats()["reload"]["shards_error"]
        assert behind.topology.epoch == 5


def test_half_of_the_shards_are_enough_and_fewer_are_not(editor: Editor, older: Path) -> None:
    editor("pin", PIN, "s2", "--settle", "0")
    text = older.read_text(encoding="utf-8")

    topology = load_topology(older)

    def down(*shards: str) -> str:
        found = text
        for name in shards:
            dbname = topology.shards[name].primary.param("dbname")
            assert dbname in found
            found = found.replace(dbname, f"{dbname}_gone")
        return found

    older.write_text(down("s0"), encoding="utf-8")
    with Router(older, reload_interval=60) as behind:
        behind.shard("s2").execute("select 1", timeout=30)
        assert behind.topology.epoch == 6
    older.write_text(down("s0", "s1", "s3"), encoding="utf-8")
    with Router(older, reload_interval=60) as behind, pytest.raises(StaleTopology):
        behind.shard("s2").execute("select 1", timeout=3)


def test_no_password_and_no_role_is_published(editor: Editor, router: Router) -> None:
    editor("pin", PIN, "s2", "--settle", "0")
    topology = load_topology(editor.path)
    ends = [end for shard in topology.shards.values() for end in shard.endpoints]
    secrets = [Path(end.password_file).read_text(encoding="utf-8").strip() for end in ends if end.password_file]
    assert secrets
    for shard in router.shards:
        with router.shard(shard).connection() as conn:
            (text,) = conn.execute("select document from shardpool.topology order by epoch desc limit 1").fetchone()
            history = conn.execute("select plan::text from shardpool.history").fetchall()
        assert not any(secret in text + str(history) for secret in secrets)
        assert not any('"document"' in plan for (plan,) in history)
        fields = {key for shard in document_data(topology)["shards"].values() for key in shard["primary"]}
        assert fields == {"host", "port", "dbname"}
        assert not placements_differ(read_document(text), topology)


def test_a_file_that_is_behind_is_brought_up_to_what_the_shards_say(
    editor: Editor, older: Path, tmp_path: Path
) -> None:
    commented = older.read_text(encoding="utf-8").replace("    pinned: {17: s3}", "    # large\n    pinned: {17: s3}")
    commented = commented.replace("reference_tables:", "# everywhere\nreference_tables:") + "# the end\n"
    older.write_text(commented, encoding="utf-8")
    behind = Editor(str(older))
    assert "the shards have nothing newer" in behind("pull", str(older))
    editor("pin", PIN, "s2", "--settle", "0")
    editor("pin", "17", "s1", "--settle", "0")
    editor("split", "2025-06-01", "--to", "s3", "--settle", "0")
    editor("rename", "s3", "s9", "--settle", "0")
    new = tmp_path / "new.yaml"
    text = editor.text.replace("s0: 0-1023, s1: 1024-2047", "s0: 0-511, s1: 512-2047")
    text = text.replace("s1: [us, ca]", "s1: [us], s2: [ca, nl]").replace("audit_log: s0", "audit_log: s0, jobs: s2")
    new.write_text(text, encoding="utf-8")
    editor("apply", str(new), "--settle", "0")
    behind("set", "defaults.pool.max_size", "3", code=1)
    assert "pull" in behind.stderr
    before = older.read_text(encoding="utf-8")
    assert "+epoch: 10" in behind("pull", "--dry-run") and older.read_text(encoding="utf-8") == before
    assert behind.json("pull")["epoch"] == 10
    after = load_topology(older)
    assert not placements_differ(after, load_topology(editor.path))
    assert {line.strip() for line in older.read_text(encoding="utf-8").splitlines()} >= {
        "# large", "# everywhere", "# the end",
    }  # fmt: skip
    with Router(older) as router:
        assert len(router.scatter("select 1")) == 4
    behind("pin", PIN, "s0", "--settle", "0")
    assert "+epoch: 11" in editor("pull")


def test_status_says_who_works_by_which_epoch(editor: Editor, older: Path) -> None:
    older.write_text(older.read_text(encoding="utf-8") + "topology: file\n", encoding="utf-8")
    kwargs = {"application_name": "reports"}
    with Router(older, kwargs=kwargs, reload_interval=0.1) as left, Router(editor.path, reload_interval=0.1) as goes_on:
        left.scatter("select 1")
        pid = left.shard("s2").execute("select pg_backend_pid()").one()[0]
        goes_on.scatter("select 1")
        editor("set", "shards.s2.pool.max_size", "20")
        until(lambda: goes_on.topology.epoch == 6)
        goes_on.scatter("select 1")
        told = editor.json("status", code=1)
        assert told["file_epoch"] == 6 and not told["unreached"]
        for shard in told["shards"]:
            assert (shard["epoch"], shard["published"]) == (6, 6)
            epochs = {(session["application"], session["epoch"]) for session in shard["sessions"]}
            assert epochs == {("reports", 5), ("shardpool", 6)}
        assert pid in [session["pid"] for shard in told["shards"] for session in shard["sessions"]]
        assert "reports" in editor("status", code=1)
        assert "the file is at epoch 5, the fleet at epoch 6" in Editor(str(older))("status", code=1)
    until(lambda: not any(shard["sessions"] for shard in editor.json("status")["shards"]))


def test_an_edit_waits_until_no_router_works_by_the_older_topology(editor: Editor, older: Path) -> None:
    """By what their sessions declare, and not for the time that they could need."""
    older.write_text(older.read_text(encoding="utf-8") + "topology: file\n", encoding="utf-8")
    with Router(editor.path, reload_interval=0.1) as follows, Router(older, reload_interval=None) as late:
        follows.scatter("select 1")
        late.scatter("select 1")
        with editor.begin("pin", PIN, "s2", "--settle", "600") as edit:
            until(lambda: follows.topology.epoch == 6)
            assert follows.for_key(7, table="orders").shard == "s2"
            assert edit.poll() is None
            assert late.scatter("select epoch from shardpool.meta")["s1"].one() == (5,), "nobody is refused meanwhile"
            late.reload(load_topology(editor.path))
            _, told = edit.communicate(timeout=60)
        assert edit.returncode == 0, told
        assert "not waited for" not in told
        for shard in late.shards:
            assert late.shard(shard).execute("select epoch, min_epoch from shardpool.meta").one() == (6, 6)


def test_an_edit_names_those_for_whom_it_waits_no_longer(editor: Editor, older: Path) -> None:
    older.write_text(older.read_text(encoding="utf-8") + "topology: file\n", encoding="utf-8")
    with Router(older, kwargs={"application_name": "left"}, reload_interval=None) as left:
        pid = left.shard("s1").execute("select pg_backend_pid()").one()[0]
        editor("pin", PIN, "s2", "--settle", "0.3")
        assert f"not waited for any longer: s1: process {pid} of " in editor.stderr
        assert "(left, idle) works by epoch 5" in editor.stderr
        assert left.shard("s1").execute("select epoch from shardpool.meta").one() == (6,)


def test_an_edit_says_what_to_do_about_a_program_that_is_no_router(editor: Editor) -> None:
    with connect(load_topology(editor.path), "s1", application_name="reports") as reports:
        editor("pin", PIN, "s2", "--settle", "1.2")
        assert f"waiting for s1: process {reports.info.backend_pid} of " in editor.stderr
        assert "(reports, idle) works by no epoch" in editor.stderr
        assert "a role of its own" in editor.stderr
