"""A quantile of a stream of numbers, followed without keeping them."""

from __future__ import annotations

# How many numbers have to have come before it tells anything, and how far one moves it at most.
_ENOUGH = 20
_STEP = 0.05


class RunningQuantile:
    """Goes up a little for each number above it and down a little for each below, in the ratio that holds it there.

    Stochastic approximation (Robbins and Monro, 1951): at rest, the share `quantile` of the numbers is below.
    """

    __slots__ = ("_count", "_quantile", "_value")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._value = 0.0
        self._count = 0

    def add(self, number: float) -> None:
        """One more number, above 0."""
        self._count += 1
        if self._count <= _ENOUGH:
            self._value = max(self._value, number)
        elif number > self._value:
            self._value *= 1 + _STEP * self._quantile
        else:
            self._value *= 1 - _STEP * (1 - self._quantile)

    @property
    def value(self) -> float | None:
        """The quantile, None as long as too few numbers have come."""
        return self._value if self._count >= _ENOUGH else None
