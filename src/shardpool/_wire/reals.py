"""Python floats as PostgreSQL's real, by binary COPY: the very numbers that it reads from their texts. Pure.

A float is a double. The real that is nearest to it is the one that is nearest to its text, too, but where the double
is just between two reals: its text, which is the shortest that is read back alike, is mostly a little above or below.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import isfinite

_LANE = 64
# The bits of a double's fraction that a real has not; of one that is between two reals only the first of them is set.
_REST, _BETWEEN = (1 << 29) - 1, 1 << 28
# Exponents as doubles have them: reals below the first have fewer bits; from the second on there may be none.
_NORMAL, _GREAT = 1023 - 126, 1023 + 127
# Integers up to here are floats, too.
EXACT = 2**53


def check_reals(values: Sequence[float], column: str) -> bool:
    """Whether some of these have to be sent `as_read`.

    Raises `TypeError` for what is no float, `OverflowError` for what is too large or too near to 0 for a real.
    """
    types = set(map(type, values))
    if not types <= {float, int} or (int in types and max(map(abs, filter(_is_int, values))) > EXACT):
        raise TypeError(f"not a float for column {column}")
    count = len(values)
    doubles = int.from_bytes(struct.pack(f"<{count}d", *values), "little")
    # The sums say of each lane whether it is as great as a bound, by a bit that no lane carries into another.
    exponents = doubles >> 52 & _each(0x7FF, count)
    if exponents + _each(2048 - _GREAT, count) & _each(2048, count):
        try:
            struct.pack(f"<{count}f", *values)
        except OverflowError:
            raise OverflowError(f"out of range for column {column}") from None
    normal = exponents + _each(2048 - _NORMAL, count) & _each(2048, count)
    zeros = values.count(0.0)
    has_small = normal.bit_count() + zeros != count
    if has_small and struct.unpack(f"<{count}f", struct.pack(f"<{count}f", *values)).count(0.0) != zeros:
        raise OverflowError(f"too near to 0 for column {column}")
    between = (doubles & _each(_REST, count) ^ _each(_BETWEEN, count)) + _each(_REST, count) & _each(_REST + 1, count)
    return has_small or between.bit_count() != count


def _is_int(value: float) -> bool:
    return type(value) is int


@cache
def _each(lane: int, count: int) -> int:
    """A number that has these bits in each of so many lanes."""
    return lane * (((1 << _LANE * count) - 1) // ((1 << _LANE) - 1))


def as_read(value: float) -> float:
    """The real that PostgreSQL reads from the text of a float, which is in its range."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    near = {at: struct.unpack("<f", struct.pack("<i", at))[0] for at in (bits - 1, bits, bits + 1)}
    if not all(map(isfinite, near.values())):
        return value
    exact = Fraction(repr(value))
    # Of two that are as near the one whose last bit is 0.
    found: float = near[min(near, key=lambda at: (abs(Fraction(near[at]) - exact), at & 1))]
    return found
