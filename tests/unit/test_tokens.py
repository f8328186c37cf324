"""Positions of shards as texts, and whose they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardpool import RouterMisuse, Token


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True), st.integers(0, 2**64 - 1))
def test_a_token_is_read_as_it_was_written(shard: str, lsn: int) -> None:
    token = Token(shard, lsn)
    assert Token.parse(str(token)) == token


def test_it_is_written_as_postgresql_writes_positions() -> None:
    assert str(Token("s0", (0x16 << 32) + 0xB374D848)) == "s0@16/B374D848"


@pytest.mark.parametrize("text", ["", "s0", "s0@16", "@16/0", "s0@x/y", "s0@16-0"])
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(ValueError):
        Token.parse(text)


def test_a_token_of_another_shard_is_refused() -> None:
    assert Token("s0", 7).for_shard("s0") == 7
    with pytest.raises(RouterMisuse, match="the token is of shard s0, and the call goes to shard s1"):
        Token("s0", 7).for_shard("s1")
