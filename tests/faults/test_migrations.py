"""A shard that freezes while it is migrated is told by name, within a bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from shardpool import AsyncRouter
from shardpool.schema import Happened, MigrationError, Rollout, session
from shardpool.schema.state import RUNNER_LOCK, try_lock
from tests.timing import in_time

from .fleet import DATABASE, FaultFleet
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
