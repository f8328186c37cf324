"""Measuring cases side by side: interleaved rounds, medians, quartiles, ratios."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
Sample = Callable[[], float]
"""One measurement: seconds per operation."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure: `rounds` given by the caller, or what the subject thinks right; less when `quick`."""

    rounds: int | None = None
    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """A size of the work: rows, repetitions."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds per operation of one case, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Half of the rounds lie between these two."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def ratio(self, baseline: Measured) -> float:
        """The ratio of the medians."""
        return self.median / baseline.median

    def paired_ratio(self, baseline: Measured) -> float:
        """The median of the ratios of each round: its two were measured under the same load, whatever that was."""
        return median(ours / theirs for ours, theirs in zip(self.seconds, baseline.seconds, strict=True))


def measure(
    samples: Mapping[str, Sample], effort: Effort, *, rounds: int, seconds: float, least: int = 3
) -> dict[str, Measured]:
    """Every case once per round, in an order that chance gives; one more round before, which is not counted.

    In a fixed order a case would always pay for what the one before it left behind, in caches and in garbage.

    Ends after `rounds`, or after `seconds` when at least `least` rounds have been made; a quick run takes a tenth.
    """
    rounds = effort.rounds or max(least, effort.pick(rounds, rounds // 10))
    until = perf_counter() + (seconds / 10 if effort.quick else seconds)
    found: dict[str, list[float]] = {name: [] for name in samples}
    order = list(samples.items())
    for _, sample in order:
        sample()
    gc.collect()
    chance = Random(rounds)
    for number in range(rounds):
        if effort.rounds is None and number >= least and perf_counter() > until:
            break
        chance.shuffle(order)
        for name, sample in order:
            found[name].append(sample())
    return {name: Measured(tuple(values)) for name, values in found.items()}


def joined(parts: Iterable[Mapping[str, Measured]]) -> dict[str, Measured]:
    """The rounds of several measurements of the same cases as one.

    What is measured on connections is measured on several sets of them, since where the system runs a server process
    stays as it was for seconds, and makes half the time of a short query.
    """
    found: dict[str, tuple[float, ...]] = {}
    for part in parts:
        for name, measured in part.items():
            found[name] = found.get(name, ()) + measured.seconds
    return {name: Measured(seconds) for name, seconds in found.items()}


def repeat(operation: Callable[[], object], times: int) -> Sample:
    """A sample of an operation: so many times, one after another."""

    def sample() -> float:
        begun = perf_counter()
        for _ in range(times):
            operation()
        return (perf_counter() - begun) / times

    return sample


class Loop:
    """An event loop to measure on, with what is open on it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._opened = AsyncExitStack()

    def __enter__(self) -> Loop:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._opened.aclose())
        self._runner.close()

    def open(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter it now, and leave it at the end."""
        return self._runner.run(self._opened.enter_async_context(context))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def repeat(self, operation: Callable[[], Awaitable[object]], times: int) -> Sample:
        """As `repeat`; starting and stopping the loop is not counted."""

        async def body() -> float:
            begun = perf_counter()
            for _ in range(times):
                await operation()
            return (perf_counter() - begun) / times

        return lambda: self._runner.run(body())
