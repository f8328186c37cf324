"""The names of transactions over several shards, and the order of their steps; without a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shardpool import RoutingError
from shardpool.control.commitment import commitment_findings
from shardpool.control.transactions import COMMIT, KEPT_FOR, CommitStep, TransactionId, end, steps
from shardpool.topology import Endpoint, PoolSettings, Shard, Topology

NOW = datetime(2026, 5, 4, 3, 2, 1, 123000, UTC)
ID = TransactionId.new("shop", "s0", int(NOW.timestamp() * 1000), (1 << 74) - 1)


def test_an_id_is_read_as_it_is_written() -> None:
    assert TransactionId.parse(str(ID)) == ID
    assert ID.begun_at == NOW
    assert ID.number.version == 7
    later = TransactionId.new("shop", "s0", int(NOW.timestamp() * 1000) + 1, 0)
    assert str(ID) < str(later)


@pytest.mark.parametrize("text", ["", "sp:shop:s0", "sp:shop:s0:x", f"{ID}:1", f"x{ID}", str(ID).upper()])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(RoutingError, match="not the id of a transaction"):
        TransactionId.parse(text)


def test_names_of_parts_fit_into_postgresql_with_the_longest_names() -> None:
    longest = TransactionId.new("f" * 63, "s" * 63, 0, 0)
    parts = longest.parts([f"shard{number}" for number in range(1000)])
    assert len(set(parts.values())) == 1000
    assert max(map(len, parts.values())) < 200


def test_the_home_records_before_others_prepare_and_decides_after_that() -> None:
    told = steps(ID, ["s1", "s2"], ["s3"], is_recorded=False)
    assert [(step, sorted(texts)) for step, texts in told] == [
        (CommitStep.RECORD, ["s0"]),
        (CommitStep.PREPARE, ["s1", "s2"]),
        (CommitStep.DECIDE, ["s0"]),
        (CommitStep.FINISH, ["s1", "s2", "s3"]),
    ]
    assert told[3][1]["s3"] == COMMIT
    assert told[1][1]["s1"] != told[1][1]["s2"]
    assert [step for step, _ in steps(ID, ["s1"], [], is_recorded=True)] == [
        CommitStep.PREPARE,
        CommitStep.DECIDE,
        CommitStep.FINISH,
    ]


def test_a_part_is_ended_as_its_home_says() -> None:
    assert end("sp:x:1", "committed") == b"commit prepared 'sp:x:1'"
    assert end("sp:x:1", "aborted") == b"rollback prepared 'sp:x:1'"
    assert end("sp:x:1", "running") is None


def test_check_says_what_a_shard_lacks_for_them() -> None:
    endpoint = Endpoint("primary", "primary", (), pool=PoolSettings(1, 10))
    replica = Endpoint("replica-1", "replica", ())
    alone, with_replica = Shard("s0", endpoint), Shard("s1", endpoint, (replica,))
    fleet = Topology("shop", 1, {"s0": alone, "s1": with_replica}, {})

    def told(row: tuple[object, ...], shard: str) -> list[str]:
        return [finding.message for finding in commitment_findings(row, fleet, shard, endpoint)]

    assert told((100, "", None), "s0") == []
    assert told((100, "", timedelta(minutes=1)), "s0") == []
    assert "max_prepared_transactions is 0" in told((0, "", None), "s0")[0]
    assert "one router alone has up to 10 connections" in told((5, "", None), "s0")[0]
    assert "undecided since 3,600 s" in told((100, "", timedelta(hours=1)), "s0")[0]
    assert "no standby is waited for" in told((100, "", None), "s1")[0]
    assert told((100, "*", None), "s1") == []
    single = Topology("shop", 1, {"s1": with_replica}, {})
    assert not [*commitment_findings((0, "", None), single, "s1", endpoint)]


def test_an_id_is_forgotten_well_before_its_record_may_be_dropped() -> None:
    assert not ID.is_forgotten(NOW + timedelta(minutes=29))
    assert ID.is_forgotten(NOW + timedelta(minutes=31))
    assert ID.is_forgotten(NOW + KEPT_FOR)
