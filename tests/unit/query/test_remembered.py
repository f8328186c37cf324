"""What was made of texts is kept, of fewer when they are long."""

from __future__ import annotations

from shardpool.query.text.remembered import LONG, remembered


def test_a_function_is_called_once_for_a_text_that_is_remembered() -> None:
    asked: list[int] = []

    @remembered
    def length(text: str) -> int:
        asked.append(len(text))
        return len(text)

    assert [length("a"), length("a"), length("b" * LONG), length("b" * LONG)] == [1, 1, LONG, LONG]
    assert asked == [1, LONG]
    for number in range(20):
        length(str(number) * LONG)
    length("a")
    length("b" * LONG)
    assert (asked.count(1), asked[-1]) == (1, LONG)
