"""What is shown of a topology file's text: no password, however it is written."""

from __future__ import annotations

import pytest

from shardpool.config import edit_text, masked_url, text_diff
from shardpool.config._masking import masked_text
from shardpool.patches import Put

WRITTEN = {
    "plain": "password: hunter2",
    "quoted": "password: 'it''s hunter2'",
    "escaped": 'password: "h\\u0075nter2"',
    "number": "password: 1234567.50",
    "folded": "password: >-\n      hunter2\n      hunter2",
    "default": "password: '${DB_PASSWORD:-hunter2}'",
    "anchor": "user: &a hunter2\n    password: *a",
    "list": "secrets: [hunter2, {a: hunter2}]",
    "url": "primary: postgresql://app:hunter2@pg-1/shop",
    "url with an @": "primary: 'postgresql://app:a@hunter2@pg-1/shop'",
    "query": "primary: postgresql://pg-1/shop?user=app&password=hunter2",
    "encoded query": "primary: postgresql://pg-1/shop?user=app&p%61ssword=hunter2",
    "comment": "user: app   # password: hunter2",
    "commented out": "user: app\n    # password: hunter2",
    "url in a comment": "user: app   # postgresql://app:hunter2@pg-1/shop",
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_password_is_not_shown(how: str) -> None:
    text = f"epoch: 1\ndefaults:\n  connect:\n    {WRITTEN[how]}\n    after: 5   # stays\n"
    masked = masked_text(text)
    for secret in ("unter2", "0075nter", "4567", "it''s"):
        assert secret not in masked
    assert "after: 5   # stays" in masked and "***" in masked
    assert len(masked.splitlines()) == len(text.splitlines())


def test_where_a_password_comes_from_is_shown() -> None:
    text = (
        "a: {password_file: /run/secrets/db}\nplain_passwords: refuse\nb: postgresql://app@pg-1/shop?sslmode=require\n"
    )
    assert masked_text(text) == text


def test_a_difference_shows_that_a_password_changes_and_not_which() -> None:
    before = "epoch: 1\na: {password: hunter2, port: 1}\nb: 2\nc: 3\n"
    after = before.replace("hunter2", "hunter3")
    assert text_diff(before, after, "file").splitlines()[2:] == [
        "@@ -1,3 +1,3 @@",
        " epoch: 1",
        "-a: {password: ***, port: 1}",
        "+a: {password: ***, port: 1}",
        " b: 2",
    ]


def test_text_that_is_not_changed_keeps_its_line_ends() -> None:
    text = "epoch: 1\r\na: 'x'\t# é 𝄞\r\nb: 2"
    assert edit_text(text, [Put(("epoch",), 2)]) == text.replace("epoch: 1", "epoch: 2")


def test_urls_without_a_password_stay() -> None:
    assert masked_url("postgresql://pg-4:5432/shop") == "postgresql://pg-4:5432/shop"
    assert masked_url("pg-4:5432") == "pg-4:5432"
