"""A shard that freezes while it is migrated is told by name, within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from shardpool import AsyncRouter, ScatterError
from shardpool.local.binaries import find_binaries
from shardpool.schema import Happened, MigrationError, Rollout, session
from shardpool.schema.state import RUNNER_LOCK, try_lock
from tests.timing import in_time

from .fleet import DATABASE, SCHEMA, FaultFleet
from .processes import frozen

pytestmark = pytest.mark.servers

SILENCE = 2.0


@pytest.fixture
def folder(fleet: FaultFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(session, "_SILENCE", SILENCE)
    (tmp_path / "1_made.sql").write_text("-- migrate:up\ncreate table made (n int);\nselect pg_sleep(0.3);\n")
    yield tmp_path
    for server in fleet.servers.values():
        with server.connect("postgres", DATABASE) as admin:
            admin.execute("drop table if exists made, shardpool.migrations, shardpool.migration_log")


@pytest.mark.parametrize("moment", ["step", "wait"])
async def test_a_shard_that_freezes_while_it_is_migrated_is_named_and_the_others_get_to_their_end(
    fleet: FaultFleet, folder: Path, moment: str
) -> None:
    began = 0.0
    with ExitStack() as stack:
        if moment == "wait":
            other = stack.enter_context(fleet.servers["s1"].connect("postgres", DATABASE))
            other.execute(try_lock(RUNNER_LOCK))
        thaw = stack.enter_context(ExitStack())

        def freeze(happened: Happened) -> None:
            nonlocal began
            if happened.what == moment and happened.shard == "s1" and not began:
                began = monotonic()
                thaw.enter_context(frozen(fleet, "s1"))

        async with AsyncRouter(fleet.topology(direct=tuple(fleet.servers))) as router:
            with pytest.raises(MigrationError, match="failed on 1 of 4 shards") as caught:
                await router.migrations.up(folder, rollout=Rollout(on_error="continue"), progress=freeze)
            in_time(monotonic() - began, SILENCE + 1.5)
            report = caught.value.report
            assert report is not None
            assert [shard.outcome for shard in report.shards.values()] == ["done", "failed", "done", "done"]
            assert str(report.shards["s1"].error).startswith("shard s1 was lost\nDETAIL:  It has not answered for 2 s.")
    async with AsyncRouter(fleet.topology(direct=tuple(fleet.servers))) as router:
        assert (await router.migrations.up(folder)).changed == 1
        assert (await router.migrations.status(folder)).ok


async def test_a_shard_that_freezes_while_another_is_made_like_it_is_named_and_nothing_is_kept(
    fleet: FaultFleet, folder: Path
) -> None:
    with ExitStack() as stack:
        new = stack.enter_context(fleet.servers["s3"].connect("app", DATABASE))
        new.execute("drop table ledger")
        stack.callback(lambda: new.execute(SCHEMA))
        # pg_dump waits for it, and so it is known where it is.
        holder = stack.enter_context(fleet.servers["s0"].connect("app", DATABASE))
        holder.execute("begin; lock table ledger")
        asking = stack.enter_context(fleet.servers["s0"].connect("postgres", DATABASE))
        waiting = "select count(*) from pg_locks where not granted"
        async with AsyncRouter(fleet.topology(direct=tuple(fleet.servers))) as router:
            program = find_binaries().program("pg_dump")
            making = asyncio.create_task(router.migrations.provision("s3", like="s0", pg_dump=program))
            while not making.done() and asking.execute(waiting).fetchone() == (0,):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            with frozen(fleet, "s0"):
                began = monotonic()
                with pytest.raises(ScatterError, match="shard s0 was lost"):
                    await making
                in_time(monotonic() - began, SILENCE + 8)
        assert new.execute("select to_regclass('ledger')").fetchone() == (None,)
