"""Keys, partitionings and lookups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shardpool.errors import InvalidKey, KeyNotCovered, RoutingError
from shardpool.keys import KEY_TYPES, KeyType, canonical_key, encode_key, key_parts, key_text
from shardpool.partitioning import Hash, List, Partitioning, Range, make_batch_lookup, make_lookup


class Size(IntEnum):
    SMALL = 1


class Colour(StrEnum):
    RED = "red"


class FuzzyInt(int):
    """Equal to everything, as a subclass may claim to be."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class NumpyLike:
    def __index__(self) -> int:
        return 42


CANONICAL: dict[KeyType, st.SearchStrategy[Any]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    "uuid": st.uuids(),
    "bytea": st.binary(max_size=30),
    "date": st.dates(),
    "timestamptz": st.datetimes(timezones=st.just(UTC)),
}
ANYTHING = st.one_of(
    *CANONICAL.values(),
    st.none(),
    st.booleans(),
    st.floats(),
    st.decimals(),
    st.integers(),
    st.text(st.characters()),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.sampled_from(
        [Size.SMALL, Colour.RED, FuzzyInt(5), NumpyLike(), [], {}, object(), "42", " -7 ", "\ud800", "a\0"]
    ),
    st.binary().map(bytearray),
    st.binary().map(memoryview),
)


@st.composite
def partitionings(draw: st.DrawFn) -> Partitioning:
    """Any partitioning, with few keys among small values, so that some of them meet."""
    kind = draw(st.sampled_from(["hash", "range", "list"]))
    size = 1 if kind == "range" else draw(st.integers(1, 3))
    key_types = tuple(draw(st.lists(st.sampled_from(KEY_TYPES), min_size=size, max_size=size)))
    keys = draw(st.lists(canonical_keys(key_types), max_size=6, unique=True))
    match kind:
        case "hash":
            return Hash(
                key_types, draw(st.sampled_from(["murmur3", "postgres"])), draw(st.integers(1, 64)), tuple(keys)
            )
        case "range":
            bounds = tuple(sorted(keys))
            return Range(key_types, (*bounds, None) if draw(st.booleans()) or not bounds else bounds)
        case _:
            return List(key_types, tuple(keys), draw(st.booleans()) or not keys)


def canonical_keys(key_types: tuple[KeyType, ...]) -> st.SearchStrategy[Any]:
    parts = [CANONICAL[key_type] for key_type in key_types]
    return parts[0] if len(parts) == 1 else st.tuples(*parts)


def outcome(function: Callable[[Any], Any], key: Any) -> Any:
    """What a call gives, or the class and text of what it raises."""
    try:
        return function(key)
    except RoutingError as error:
        return type(error), str(error)


def own_keys(partitioning: Partitioning) -> list[Any]:
    """The keys that the partitioning names itself."""
    match partitioning:
        case Hash():
            return list(partitioning.pinned)
        case Range():
            return list(partitioning.ends)
        case List():
            return list(partitioning.values)


@given(partitionings(), st.data())
def test_lookup_gives_what_bucket_gives(partitioning: Partitioning, data: st.DataObject) -> None:
    lookup = make_lookup(partitioning, range(partitioning.bucket_count))
    size = len(partitioning.key_types)
    strange = ANYTHING if size == 1 else st.lists(ANYTHING, min_size=size, max_size=size).map(tuple) | ANYTHING
    key = data.draw(canonical_keys(partitioning.key_types) | strange)
    for asked in [key, *own_keys(partitioning)]:
        assert outcome(lookup, asked) == outcome(partitioning.bucket, asked)


@given(partitionings(), st.data())
def test_a_batch_of_keys_goes_where_each_of_them_goes(partitioning: Partitioning, data: st.DataObject) -> None:
    lookup = make_batch_lookup(partitioning, range(partitioning.bucket_count))
    canonical = data.draw(st.lists(canonical_keys(partitioning.key_types), max_size=5)) + own_keys(partitioning)
    strange = data.draw(st.lists(ANYTHING, max_size=2))
    for batch in (canonical, list(map(str, canonical)), canonical + strange):
        wanted = [outcome(partitioning.bucket, key) for key in batch]
        refused = [told for told in wanted if isinstance(told, tuple)]
        assert outcome(lookup, batch) == (refused[0] if refused else wanted)


@pytest.mark.parametrize(
    ("key_type", "keys"),
    [
        ("bigint", ["1", "٣"]),
        ("bigint", ["1", ""]),
        ("bigint", ["1", "9223372036854775808"]),
        ("bigint", ["1", "9" * 5000]),
        ("bigint", [1, 2**63]),
        ("bigint", [1, True]),
        ("text", ["a", "\ud800"]),
        ("text", ["a", "a\0"]),
        ("uuid", ["00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-0000000000-0"]),
        ("uuid", ["0" * 36]),
        ("uuid", ["gggggggg-gggg-gggg-gggg-gggggggggggg"]),
        ("uuid", ["{0000000-0000-0000-0000-000000000000"]),
    ],
)
def test_a_key_among_plain_ones_is_refused_as_it_is_alone(key_type: KeyType, keys: list[Any]) -> None:
    partitioning = Hash((key_type,))
    with pytest.raises(InvalidKey) as alone:
        list(map(partitioning.bucket, keys))
    with pytest.raises(InvalidKey) as raised:
        make_batch_lookup(partitioning, range(4096))(keys)
    assert str(raised.value) == str(alone.value)


@given(partitionings(), st.data())
def test_every_key_has_one_bucket_of_those_there_are(partitioning: Partitioning, data: st.DataObject) -> None:
    key = data.draw(canonical_keys(partitioning.key_types))
    try:
        bucket = partitioning.bucket(key)
    except KeyNotCovered:
        assert not isinstance(partitioning, Hash)
        return
    assert 0 <= bucket < partitioning.bucket_count
    assert partitioning.describe_bucket(bucket)


@given(partitionings())
def test_own_keys_are_in_buckets_of_their_own(partitioning: Partitioning) -> None:
    buckets = [outcome(partitioning.bucket, key) for key in own_keys(partitioning)]
    assert len(set(map(str, buckets))) == len(buckets)


@given(partitionings())
def test_bucket_in_an_equal_partitioning_is_the_same(partitioning: Partitioning) -> None:
    equal = replace(partitioning)
    assert equal == partitioning
    for bucket in range(partitioning.bucket_count):
        assert partitioning.bucket_in(equal, bucket) == bucket


@given(partitionings(), st.data())
def test_bucket_in_another_partitioning_holds_the_same_keys(partitioning: Partitioning, data: st.DataObject) -> None:
    other = data.draw(_variants(partitioning) | partitionings())
    keys = [*own_keys(partitioning), *own_keys(other)]
    keys += data.draw(st.lists(canonical_keys(partitioning.key_types), max_size=5))
    for bucket in range(partitioning.bucket_count):
        twin = partitioning.bucket_in(other, bucket)
        assert twin is None or other.bucket_in(partitioning, twin) == bucket
        for key in keys if twin is not None else []:
            here, there = outcome(partitioning.bucket, key), outcome(other.bucket, key)
            assert (here == bucket) == (there == twin)


def _variants(partitioning: Partitioning) -> st.SearchStrategy[Partitioning]:
    """The same kind of partitioning with some of its keys, so that some buckets stay."""
    some = st.lists(st.sampled_from(own_keys(partitioning) or [None]), unique=True).map(
        lambda keys: tuple(key for key in keys if key is not None)
    )
    match partitioning:
        case Hash():
            return some.map(lambda keys: replace(partitioning, pinned=keys))
        case Range():
            return some.map(lambda keys: replace(partitioning, bounds=(*sorted(keys), None)))  # type: ignore[type-var]
        case List():
            return some.map(lambda keys: replace(partitioning, values=keys, default=True))


@given(st.sampled_from(KEY_TYPES), st.data())
def test_canonical_keys_stay_and_their_text_reads_back(key_type: KeyType, data: st.DataObject) -> None:
    key = data.draw(CANONICAL[key_type])
    assert canonical_key(key, (key_type,)) == key
    text = key_text(key)
    assert canonical_key(text, (key_type,)) == key
    assert encode_key(text, key_type) == encode_key(key, key_type)


@given(st.sampled_from(KEY_TYPES), ANYTHING)
def test_a_value_is_coerced_to_a_canonical_one_or_refused(key_type: KeyType, value: Any) -> None:
    try:
        key = canonical_key(value, (key_type,))
    except InvalidKey as error:
        assert error.detail
        assert error.hint
        assert len(error.message) < 120
        return
    assert type(key) in (int, str, UUID, bytes, date, datetime)
    assert canonical_key(key, (key_type,)) == key


@given(st.lists(st.sampled_from(KEY_TYPES), min_size=2, max_size=3).map(tuple), st.data())
def test_composite_encoding_is_one_to_one(key_types: tuple[KeyType, ...], data: st.DataObject) -> None:
    one, other = data.draw(canonical_keys(key_types)), data.draw(canonical_keys(key_types))
    assert (encode_key(one, key_types) == encode_key(other, key_types)) == (one == other)


@given(st.datetimes(), st.timezones())
def test_a_moment_has_one_encoding_whatever_its_zone(moment: datetime, zone: ZoneInfo) -> None:
    assume(1 < moment.year < 9999)
    local = moment.replace(tzinfo=zone)
    assert encode_key(local, "timestamptz") == encode_key(local.astimezone(UTC), "timestamptz")


COERCED: list[tuple[KeyType, Any, Any]] = [
    ("bigint", "42", 42),
    ("bigint", " \t+42\n", 42),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("bigint", Decimal("42.00"), 42),
    ("bigint", Decimal("1E3"), 1000),
    ("bigint", Size.SMALL, 1),
    ("bigint", NumpyLike(), 42),
    ("text", Colour.RED, "red"),
    ("uuid", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("uuid", "a0eebc999c0b4ef8bb6d6bb9bd380a11", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("bytea", bytearray(b"ab"), b"ab"),
    ("bytea", memoryview(b"abcd")[::2], b"ac"),
    ("bytea", "\\xDEad", b"\xde\xad"),
    ("date", " 2025-12-31", date(2025, 12, 31)),
    ("timestamptz", "2025-01-01 00:00:00+00", datetime(2025, 1, 1, tzinfo=UTC)),
    ("timestamptz", "2025-01-01T01:30:00.25+01:30", datetime(2025, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)),
    ("timestamptz", "2025-01-01 00:00Z", datetime(2025, 1, 1, tzinfo=UTC)),
    ("timestamptz", datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2025, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("key_type", "value", "key"), COERCED)
def test_a_value_that_postgresql_reads_alike_is_coerced(key_type: KeyType, value: Any, key: Any) -> None:
    coerced = canonical_key(value, (key_type,))
    assert coerced == key
    assert type(coerced) is type(key)


REFUSED: list[tuple[KeyType, Any]] = [
    *((key_type, None) for key_type in KEY_TYPES),
    *((key_type, True) for key_type in KEY_TYPES),
    *((key_type, math.nan) for key_type in KEY_TYPES),
    ("bigint", 2**63),
    ("bigint", 10**5000),
    ("bigint", "9" * 5000),
    ("bigint", -(2**63) - 1),
    ("bigint", 42.0),
    ("bigint", Decimal("1.5")),
    ("bigint", Decimal("NaN")),
    ("bigint", Decimal("1e999999999")),
    ("bigint", "0x2a"),
    ("bigint", "1_000"),
    ("bigint", "４２"),
    ("bigint", ""),
    ("text", 42),
    ("text", "a\0b"),
    ("text", "\ud800"),
    ("text", b"a"),
    ("uuid", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("uuid", "urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("uuid", b"\0" * 16),
    ("bytea", "a\\8"),
    ("bytea", "\\x0"),
    ("date", datetime(2025, 1, 1)),
    ("date", "infinity"),
    ("date", "01/02/2025"),
    ("date", "2025-02-30"),
    ("date", "202501"),
    ("timestamptz", date(2025, 1, 1)),
    ("timestamptz", datetime(2025, 1, 1)),
    ("timestamptz", "2025-01-01 00:00:00"),
    ("timestamptz", "2025-01-01 12:30.5+00"),
    ("timestamptz", "2025-01-01 00:00:00.0000001+00"),
    ("timestamptz", "2025-01-01 25:00:00+00"),
    ("timestamptz", "infinity"),
    ("timestamptz", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
]


@pytest.mark.parametrize(
    ("key_type", "value"), REFUSED, ids=lambda part: repr(part)[:30] if part != 10**5000 else "big"
)
def test_a_value_that_is_no_key_is_refused_with_a_hint(key_type: KeyType, value: Any) -> None:
    with pytest.raises(InvalidKey) as caught:
        canonical_key(value, (key_type,))
    assert caught.value.hint
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("value", [(1,), (1, "a", 2), "1a", 1, {1: "a"}, (1, None)])
def test_a_composite_key_wants_as_many_parts_as_types(value: Any) -> None:
    with pytest.raises(InvalidKey):
        Hash(("bigint", "text")).bucket(value)


def test_a_list_is_as_good_as_a_tuple_for_a_composite_key() -> None:
    assert Hash(("bigint", "text")).bucket([1, "a"]) == Hash(("bigint", "text")).bucket(("1", "a"))


INVALID: list[Callable[[], Partitioning]] = [
    lambda: Hash(()),
    lambda: Hash(("int",)),  # type: ignore[arg-type]
    lambda: Hash(("bigint",), "md5"),  # type: ignore[arg-type]
    lambda: Hash(("bigint",), buckets=0),
    lambda: Hash(("bigint",), buckets=65537),
    lambda: Hash(("bigint",), pinned=(1, "1")),
    lambda: Hash(("bigint",), pinned=("one",)),
    lambda: Range(("bigint",), ()),
    lambda: Range(("bigint",), (2, 1)),
    lambda: Range(("bigint",), (1, 1)),
    lambda: Range(("bigint",), (None, 1)),
    lambda: Range(("bigint", "bigint"), (None,)),
    lambda: List(("text",), ()),
    lambda: List(("text",), ("a", "a")),
]


@pytest.mark.parametrize("make", INVALID)
def test_an_invalid_partitioning_cannot_be_made(make: Callable[[], Partitioning]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_partitionings_hold_canonical_keys() -> None:
    assert Hash(("bigint",), pinned=("17",)) == Hash(("bigint",), pinned=(17,))
    assert Range(("date",), ("2025-01-01", None)).bounds == (date(2025, 1, 1), None)


def test_make_lookup_wants_a_target_for_each_bucket() -> None:
    with pytest.raises(ValueError, match="2 targets for 4 buckets"):
        make_lookup(Hash(("bigint",), buckets=4), ["s0", "s1"])


def test_a_pinned_key_has_a_bucket_above_the_others() -> None:
    tenants = Hash(("bigint",), buckets=8, pinned=(17, 3))
    assert (tenants.bucket(17), tenants.bucket("3")) == (8, 9)
    assert tenants.describe_bucket(8) == "pinned key 17"
    assert tenants.bucket_in(replace(tenants, pinned=(3,)), 9) == 8
    assert tenants.bucket_in(replace(tenants, pinned=(3,)), 8) is None
    assert tenants.bucket_in(replace(tenants, pinned=(3,)), tenants.hash_bucket(17)) is None


def test_range_bounds_are_exclusive_above() -> None:
    days = Range(("date",), (date(2025, 1, 1), date(2026, 1, 1)))
    assert days.bucket("2024-12-31") == 0
    assert days.bucket("2025-01-01") == 1
    with pytest.raises(KeyNotCovered, match="end below 2026-01-01"):
        days.bucket("2026-01-01")


def test_text_ranges_compare_by_code_point() -> None:
    names = Range(("text",), ("a", None))
    assert [names.bucket(name) for name in ("", "Z", "a", "é", "\U0001f600")] == [0, 0, 1, 1, 1]
    high = Range(("text",), ("\uffff", None))
    assert high.bucket("\U0001f600") == 1


BETWEEN = [
    ((None, None), [0, 1, 2]),
    ((0, 10), [0]),
    ((0, 11), [0, 1]),
    ((10, 20), [1]),
    ((10, None), [1, 2]),
    ((None, -5), [0]),
    ((25, 26), [2]),
    ((5, 5), []),
    ((9, 2), []),
]


@pytest.mark.parametrize(("limits", "buckets"), BETWEEN)
def test_buckets_between_holds_every_bucket_with_a_key_in_the_limits(limits: Any, buckets: list[int]) -> None:
    assert list(Range(("bigint",), (10, 20, None)).buckets_between(*limits)) == buckets


def test_buckets_between_leaves_out_what_no_range_covers() -> None:
    ranges = Range(("bigint",), (10, 20))
    assert list(ranges.buckets_between(15, 100)) == [1]
    assert list(ranges.buckets_between(20, 100)) == []
    assert ranges.covers(20)
    assert not ranges.covers(21)
    assert not ranges.covers()
    assert Range(("bigint",), (10, None)).covers()


@given(st.lists(st.integers(-20, 20), min_size=1, unique=True).map(sorted), st.integers(-25, 25), st.integers(-25, 25))
def test_buckets_between_agrees_with_each_key(bounds: list[int], low: int, high: int) -> None:
    ranges = Range(("bigint",), (*bounds, None))
    assert sorted(ranges.buckets_between(low, high)) == sorted({ranges.bucket(key) for key in range(low, high)})


def test_an_unlisted_key_goes_to_the_default_or_is_refused_with_the_nearest() -> None:
    stores = List(("text",), ("de", "fr", "us"), default=True)
    assert stores.bucket("zz") == 3
    with pytest.raises(KeyNotCovered, match="Did you mean"):
        replace(stores, default=False).bucket("dee")


DESCRIPTIONS: list[tuple[Partitioning, list[str]]] = [
    (Hash(("bigint",), buckets=1), ["hash bucket 0 of 1"]),
    (Range(("date",), (None,)), ["every key"]),
    (Range(("bigint",), (1, 5, None)), ["keys below 1", "keys from 1 to below 5", "keys from 5"]),
    (List(("text", "bigint"), (("a", 1),), default=True), ["key 'a', 1", "every key that is not listed"]),
]


@pytest.mark.parametrize(("partitioning", "words"), DESCRIPTIONS)
def test_buckets_are_described_in_words(partitioning: Partitioning, words: list[str]) -> None:
    assert [partitioning.describe_bucket(bucket) for bucket in range(partitioning.bucket_count)] == words
    with pytest.raises(IndexError):
        partitioning.describe_bucket(partitioning.bucket_count)


def test_key_parts_are_those_of_a_tuple_or_the_value() -> None:
    assert key_parts(1) == (1,)
    assert key_parts((1, "a")) == (1, "a")
