"""A topology file that changes under a running router: taken over when it is good, told and left alone when not."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from shardpool import AsyncRouter, Router, ScatterError, UnknownShard
from shardpool.events import Event, NewerEpochSeen, Reloaded, ReloadFailed
from tests.timing import not_after

INTERVAL = 0.1


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives as soon as it is true."""
    deadline = monotonic() + seconds
    while not (found := condition()):
        not_after(deadline, "it has not come to pass")
        sleep(0.01)
    return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def polled(topology_path: str, told: Told) -> Iterator[Router]:
    with Router(topology_path, reload_interval=INTERVAL, observers=[told]) as opened:
        yield opened


@pytest.fixture
def file(topology_path: str) -> Path:
    return Path(topology_path)


def raised(text: str, epoch: int = 6) -> str:
    """The text of the file with another epoch."""
    return text.replace("epoch: 5", f"epoch: {epoch}")


def without_s3(text: str, epoch: int = 6) -> str:
    """The text of the file without its last shard, whose buckets go to s0; the shards are not asked about that."""
    lines = raised(text, epoch).splitlines(keepends=True)
    at = lines.index("  s3:\n")
    changed = "".join(lines[:at] + lines[at + 2 :])
    return (
        changed.replace("s0: 0-1023", "s0: [0-1023, 3072-4095]")
        .replace(", s3: 3072-4095", "")
        .replace("17: s3", "17: s0")
        .replace("fleet:", "control: none\nfleet:")
    )


def test_a_shard_is_taken_away_and_added_by_writing_the_file(polled: Router, file: Path, told: Told) -> None:
    polled.scatter("select 1")
    original = file.read_text()
    file.write_text(without_s3(original))
    until(lambda: polled.topology.epoch == 6)
    assert polled.shards == ("s0", "s1", "s2")
    with pytest.raises(UnknownShard):
        polled.shard("s3")
    assert set(polled.scatter("select 1")) == {"s0", "s1", "s2"}
    file.write_text(raised(original, 7))
    until(lambda: polled.topology.epoch == 7)
    assert polled.shard("s3").execute("select 1").one() == (1,)
    assert [event.epoch for event in told.of(Reloaded)] == [6, 7]
    stats = polled.stats()["reload"]
    assert (stats["reloads"], stats["failures"], stats["last_error"], stats["file_epoch"]) == (2, 0, None, 7)


async def test_a_router_of_tasks_follows_its_file(file: Path, told: Told) -> None:
    async with AsyncRouter(file, reload_interval=INTERVAL, observers=[told]) as router:
        await router.scatter("select 1")
        await asyncio.to_thread(lambda: file.write_text(without_s3(file.read_text())))
        deadline = monotonic() + 20
        while router.topology.epoch != 6:
            not_after(deadline)
            await asyncio.sleep(0.01)
        assert set(await router.scatter("select 1")) == {"s0", "s1", "s2"}
        task = router._fleet.follower._background._task  # type: ignore[union-attr]
    assert task is not None and task.done()


def test_a_pools_size_and_an_endpoints_address_are_taken_over(polled: Router, file: Path) -> None:
    shard = polled.shard("s0")
    kept = shard.execute("select pg_backend_pid()").one()
    lines = file.read_text().splitlines(keepends=True)
    at = lines.index("  s0:\n")
    lines[at + 1] = lines[at + 1].rstrip()[:-1] + ", pool: {max_size: 3}}\n"
    file.write_text("".join(lines))
    until(lambda: polled.topology.shards["s0"].primary.pool.max_size == 3)
    assert shard.execute("select pg_backend_pid()").one() == kept
    lines[at + 1] = lines[at + 1].rstrip()[:-1] + ", application_name: moved}\n"
    file.write_text("".join(lines))
    until(lambda: polled.topology.shards["s0"].primary.param("application_name") == "moved")
    assert shard.execute("select current_setting('application_name')").one() == ("moved",)


def test_a_file_that_cannot_be_read_for_a_while_is_read_when_it_can(
    polled: Router, file: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, opened = file.read_text(), os.open

    def no_descriptor_left(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path) == str(file):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", no_descriptor_left)
    file.write_text(raised(original))
    until(lambda: told.of(ReloadFailed))
    sleep(5 * INTERVAL)
    assert len(told.of(ReloadFailed)) == 1 and "Too many open files" in told.of(ReloadFailed)[0].error
    monkeypatch.undo()
    until(lambda: polled.topology.epoch == 6)


def test_a_bad_file_changes_nothing_is_told_once_and_is_tried_again(polled: Router, file: Path, told: Told) -> None:
    original = file.read_text()
    file.write_text(original + "nonsense: [")
    until(lambda: told.of(ReloadFailed))
    sleep(5 * INTERVAL)
    assert len(told.of(ReloadFailed)) == 1
    stats = polled.stats()["reload"]
    assert stats["last_error"] and stats["failed_at"] and stats["failures"] == 1
    assert polled.topology.epoch == 5 and len(polled.scatter("select 1")) == 4
    file.write_text(original.replace("epoch: 5", "epoch: 4"))
    until(lambda: len(told.of(ReloadFailed)) == 2)
    assert "epoch 4" in polled.stats()["reload"]["last_error"]
    assert polled.stats()["reload"]["file_epoch"] == 4
    file.unlink()
    until(lambda: len(told.of(ReloadFailed)) == 3)
    assert "No such file" in polled.stats()["reload"]["last_error"]
    file.write_text(raised(original))
    until(lambda: polled.topology.epoch == 6)
    until(lambda: polled.stats()["reload"]["last_error"] is None)


def test_the_same_contents_once_more_are_no_reload(polled: Router, file: Path, told: Told) -> None:
    file.write_text("# a comment\n" + file.read_text())
    follower = polled._fleet.follower
    assert follower is not None
    before = follower._file_state
    until(lambda: follower._file_state != before)
    sleep(2 * INTERVAL)
    assert told.of(Reloaded) == [] and told.of(ReloadFailed) == []


def test_a_link_that_is_swapped_is_noticed(file: Path, tmp_path: Path, told: Told) -> None:
    """As Kubernetes mounts a ConfigMap: file → ..data/file, ..data → a folder that is new with each change."""
    for number, text in enumerate([file.read_text(), raised(file.read_text())]):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "topology.yaml").write_text(text)
        os.utime(folder / "topology.yaml", (1, 1))
    data = tmp_path / "..data"
    data.symlink_to("..0")
    mounted = tmp_path / "mounted.yaml"
    mounted.symlink_to("..data/topology.yaml")
    with Router(mounted, reload_interval=INTERVAL, observers=[told]) as router:
        fresh = tmp_path / "..data_tmp"
        fresh.symlink_to("..1")
        fresh.rename(data)
        until(lambda: router.topology.epoch == 6)
    assert told.of(ReloadFailed) == []


def test_a_file_that_is_written_in_two_steps_is_read_when_it_is_whole(polled: Router, file: Path, told: Told) -> None:
    text = raised(file.read_text())
    half = text.index("keyspaces:")
    with file.open("w") as stream:
        # Valid so far, and a topology without a table.
        stream.write(text[:half])
        stream.flush()
        sleep(INTERVAL + 0.05)
        stream.write(text[half:])
    until(lambda: polled.topology.epoch == 6)
    until(lambda: told.of(Reloaded) != [])
    assert len(told.of(Reloaded)) == 1 and told.of(ReloadFailed) == []
    assert "tenants" in polled.topology.keyspaces


def test_a_newer_epoch_on_a_server_makes_the_router_look_at_its_file_at_once(
    router: Router, file: Path, told: Told
) -> None:
    with Router(file, reload_interval=3600, observers=[told]) as slow:
        file.write_text(raised(file.read_text(), 7))
        router.shard("s1").execute("update shardpool.owner set epoch = 7 where keyspace = 'tenants' and shard = 's1'")
        # Refused, and held until the file is read.
        assert slow.shard("s1").execute("select 1").one() == (1,)
        assert slow.topology.epoch == 7
    assert told.of(NewerEpochSeen)[0] == NewerEpochSeen(shard="s1", endpoint="primary", epoch=7)


def test_twenty_reloads_under_load_bring_no_error(file: Path, told: Told) -> None:
    original = file.read_text()
    errors: list[BaseException] = []
    calls = [0, 0, 0]
    ending = threading.Event()

    def work(number: int, call: Callable[[int], Any]) -> None:
        while not ending.is_set():
            try:
                call(calls[number])
            except Exception as error:
                errors.append(error)
            calls[number] += 1

    with Router(file, reload_interval=0.02, observers=[told]) as router:
        verbs: list[Callable[[int], Any]] = [
            lambda n: router.for_key(n, keyspace="tenants").execute("select 1"),
            lambda n: router.scatter("select 1"),
            lambda n: router.execute("select count(*) from orders"),
        ]
        workers = [threading.Thread(target=work, args=pair) for pair in enumerate(verbs)]
        for worker in workers:
            worker.start()
        for epoch in range(6, 26):
            file.write_text((without_s3 if epoch % 2 else raised)(original, epoch))
            until(lambda epoch=epoch: router.topology.epoch == epoch)
        ending.set()
        for worker in workers:
            worker.join(10)
        until(lambda: router.stats()["reload"]["reloads"] == 20)
    assert errors == []
    assert min(calls) > 20


def test_a_scatter_whose_shard_is_taken_away_before_its_turn_asks_those_that_are_left(router: Router) -> None:
    """The reload comes while the scatter waits for a connection of s0, having seen four shards."""
    topology = router.topology
    pool = router._fleet.snapshot.shards["s0"].primary
    held = [router.shard("s0").getconn() for _ in range(pool.endpoint.pool.max_size)]
    outcomes: list[Any] = []
    scatter = threading.Thread(target=lambda: outcomes.append(router.scatter("select 1", timeout=5)))
    # Retired as a reload does it, so that the scatter looks again, when the new state is there.
    shards = {name: shard for name, shard in topology.shards.items() if name != "s3"}
    changed = replace(topology.shards["s0"], primary=replace(topology.shards["s0"].primary, max_lag=1.0))
    less = replace(topology, epoch=6, shards={**shards, "s0": changed}, keyspaces={})
    scatter.start()
    until(lambda: pool.stats()["waiting"] == 1)
    router.reload(less)
    for conn in held:
        router.shard("s0").putconn(conn)
    scatter.join(8)
    assert [sorted(results) for results in outcomes] == [["s0", "s1", "s2"]]


def test_a_call_that_has_to_have_a_shard_that_is_gone_says_so(router: Router) -> None:
    from shardpool._sync.work.participants import Participants

    shards = {name: shard for name, shard in router.topology.shards.items() if name != "s3"}
    names = router._routes.shards(None, None, None, None)
    router.reload(replace(router.topology, epoch=6, shards=shards, keyspaces={}))
    with pytest.raises(UnknownShard):
        Participants.take(router._fleet, names, monotonic() + 1, readonly=False)
    with pytest.raises(UnknownShard):
        router.scatter("select 1", shards=["s3"])


def test_a_router_of_a_topology_has_no_file_to_look_at(router: Router) -> None:
    def followers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "reload" in thread.name]

    before = followers()
    with Router(router.topology) as opened:
        assert opened.stats()["reload"] is None
    with Router(router._fleet.path or "", reload_interval=None) as opened:
        assert opened.stats()["reload"] is None
    assert followers() == before


def test_closing_ends_the_thread(polled: Router) -> None:
    follower = polled._fleet.follower
    assert follower is not None
    thread = follower._background._thread
    assert thread is not None and thread.is_alive()
    polled.close()
    assert not thread.is_alive()


def test_a_router_that_is_left_behind_lets_its_thread_end(topology_path: str) -> None:
    router = Router(topology_path, reload_interval=INTERVAL)
    router.open()
    follower = router._fleet.follower
    assert follower is not None
    thread = follower._background._thread
    assert thread is not None
    del router, follower
    import gc

    gc.collect()
    until(lambda: not thread.is_alive())


def test_a_forked_child_looks_at_the_file_itself(polled: Router, file: Path) -> None:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        deadline = monotonic() + 20
        while polled.topology.epoch != 6 and monotonic() < deadline:
            sleep(0.01)
        os.write(tell, b"%d" % polled.topology.epoch)
        os._exit(0)
    try:
        file.write_text(raised(file.read_text()))
        until(lambda: polled.topology.epoch == 6)
        assert os.read(told, 10) == b"6"
    finally:
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


def test_a_scatter_of_a_function_names_the_shard_that_is_gone(router: Router) -> None:
    from shardpool._sync.work import scatter

    shards = {name: shard for name, shard in router.topology.shards.items() if name != "s3"}
    names = router._routes.shards(None, None, None, None)
    router.reload(replace(router.topology, epoch=6, shards=shards, keyspaces={}))
    with pytest.raises(ScatterError) as caught:
        scatter.call(router._fleet, names, lambda conn: conn.execute("select 1"), monotonic() + 5, readonly=False)
    assert {name: type(error) for name, error in caught.value.failures.items()} == {"s3": UnknownShard}
