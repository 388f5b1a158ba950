"""Measure two ways to do one thing, in turns and in the same run, and compare.

A benchmark is a function in a module of this package, registered like this::

    @benchmark("symbols")
    def symbols(directory: Path) -> Iterator[Comparison]:
        yield Comparison("symbols.klp of vmlinux", ours, "nm", theirs, ratio_max=1.0)

What it prepares before it yields is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 5

#: What takes longer is done less often, in seconds.
LONG = 5.0


class UnavailableError(Exception):
    """What a benchmark needs is not on this machine; the text says what."""


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing.

    :ivar name: what is done.
    :ivar ours: does it with klpbuild.
    :ivar other: name of the other way.
    :ivar theirs: does it the other way.
    :ivar ratio_max: our time should be at most this many times theirs.
    :ivar seconds_max: our time should be at most this, in seconds.
    :ivar excess_max: our time should be at most this much longer than theirs, in seconds.
    """

    name: str
    ours: Callable[[], object]
    other: str
    theirs: Callable[[], object]
    ratio_max: float | None = None
    seconds_max: float | None = None
    excess_max: float | None = None


@dataclass(frozen=True)
class Result:
    """What a comparison measured: the shortest of all rounds, in seconds."""

    group: str
    comparison: Comparison
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Our time, in theirs."""
        return self.ours / self.theirs

    @property
    def goals(self) -> tuple[tuple[str, bool], ...]:
        """Each goal in words, and whether it is met."""
        wanted = self.comparison
        found = []
        if wanted.ratio_max is not None:
            found.append((f"ratio <= {wanted.ratio_max:g}", self.ratio <= wanted.ratio_max))
        if wanted.seconds_max is not None:
            found.append((f"<= {wanted.seconds_max:g} s", self.ours <= wanted.seconds_max))
        if wanted.excess_max is not None:
            excess = self.ours - self.theirs
            found.append((f"excess <= {wanted.excess_max:g} s", excess <= wanted.excess_max))
        return tuple(found)


Benchmark = Callable[[Path], Iterator[Comparison]]

#: Name to function, in the order of registration.
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark.  It gets an empty directory of its own."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register


def measure(group: str, comparison: Comparison, rounds: int = ROUNDS) -> Result:
    """Do both ways in turns and keep the shortest times."""
    ours = theirs = float("inf")
    for _ in range(rounds):
        ours = min(ours, _seconds(comparison.ours))
        theirs = min(theirs, _seconds(comparison.theirs))
        if max(ours, theirs) > LONG:
            break
    return Result(group, comparison, ours, theirs)


def _seconds(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin
