"""Who waits in a circle, and who of them gives way; without a server."""

from __future__ import annotations

from shardpool.control.deadlocks import Declared, circle, error_of, key, new_number, victim


def declared(shard: str, number: int, pid: int, *waits_for: int) -> Declared:
    return Declared.of(shard, key(number, pid), waits_for, f"update t set v = {number}", None)


TWO = [declared("s0", 7, 70), declared("s1", 7, 71, 91), declared("s0", 9, 90, 70), declared("s1", 9, 91)]


def test_two_that_wait_for_each_other_are_found_from_both_sides() -> None:
    assert [(each.number, each.shard) for each in circle(7, TWO)] == [(7, "s1"), (9, "s0")]
    assert [(each.number, each.shard) for each in circle(9, TWO)] == [(9, "s0"), (7, "s1")]
    assert victim(circle(7, TWO)) == victim(circle(9, TWO)) == 9
    error = str(error_of(circle(9, TWO)))
    assert "waits on shard s0 for one that waits on shard s1 for it" in error
    assert "On shard s0 this one waits with: update t set v = 9" in error
    assert "On shard s1 another one waits with: update t set v = 7" in error


def test_a_longer_circle_is_found_past_those_who_are_in_none() -> None:
    found = [
        *TWO[:2],
        declared("s1", 9, 91),
        declared("s2", 9, 92, 1, 82),
        declared("s2", 8, 82),
        declared("s0", 8, 80, 70),
        declared("s0", 5, 50, 70, 80),
    ]
    assert [each.number for each in circle(7, found)] == [7, 9, 8]
    assert circle(5, found) == []


def test_a_process_is_one_of_its_shard() -> None:
    elsewhere = [declared("s0", 7, 70), declared("s1", 7, 71, 90), declared("s0", 9, 90, 70), declared("s1", 9, 91)]
    assert circle(7, elsewhere) == circle(9, elsewhere) == []
    # One's own session, and processes of others, are no transactions that are known.
    assert circle(7, [declared("s0", 7, 70, 70), declared("s1", 7, 71, 4)]) == []


def test_of_two_numbers_the_later_one_is_the_larger() -> None:
    assert new_number(1_800_000_000.0, 0.999) < new_number(1_800_000_000.2, 0.0)
    assert key(new_number(1e10, 0.999), 4_194_303) < 2**63
