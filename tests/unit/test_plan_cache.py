"""Plans are kept up to a number, and up to a length of their texts."""

from __future__ import annotations

from shardpool._runtime.plan_cache import PlanCache


def test_the_oldest_go_when_there_are_too_many() -> None:
    kept = PlanCache[str](most=3, characters=100)
    for key in "abcd":
        kept.keep(key, key.upper(), 1)
    assert [kept.get(key) for key in "abcd"] == [None, "B", "C", "D"]


def test_the_oldest_go_when_their_texts_are_too_long() -> None:
    kept = PlanCache[str](most=10, characters=100)
    for key in "abc":
        kept.keep(key, key.upper(), 40)
    kept.keep("c", "new", 50)
    assert [kept.get(key) for key in "abc"] == [None, "B", "new"]
    kept.keep("d", "alone", 1000)
    assert [kept.get(key) for key in "bcd"] == [None, None, "alone"]
    kept.clear()
    assert kept.get("d") is None
