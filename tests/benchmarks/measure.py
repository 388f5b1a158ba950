"""Measure two ways to do one thing, in turns and in the same run, and compare.

A benchmark is a function in a module of this package, registered like this::

    @benchmark("symbols")
    def symbols(setting: Setting) -> Iterator[Comparison | Figure]:
        yield Comparison("symbols.klp of vmlinux", ours, "nm", theirs, ratio_max=1.0)

What it prepares before it yields is not measured; there it also checks that what
it is about to measure gives right answers.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from statistics import median

ROUNDS = 5

#: What takes longer is done once, in seconds.
LONG = 20.0


class UnavailableError(Exception):
    """What a benchmark needs is not on this machine; the text says what."""


@dataclass(frozen=True)
class Setting:
    """Where and how a benchmark runs.

    :ivar directory: empty, and its own.
    :ivar kernel: release of the fetched kernel.
    :ivar small: whether answers count and times do not: small inputs, the miniature kernel.
    :ivar patches: a directory of fixes for the kernel, if there is one.
    """

    directory: Path
    kernel: str
    small: bool = False
    patches: Path | None = None


class Quantity(Enum):
    """What of a comparison goes to the top of benchmark.json."""

    RATIO = "ratio"
    SECONDS = "seconds"
    EXCESS = "excess"


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
    :ivar key: its name at the top of benchmark.json, if it has one.
    :ivar quantity: what stands there.
    """

    name: str
    ours: Callable[[], object]
    other: str
    theirs: Callable[[], object]
    ratio_max: float | None = None
    seconds_max: float | None = None
    excess_max: float | None = None
    key: str = ""
    quantity: Quantity = Quantity.RATIO


@dataclass(frozen=True)
class Figure:
    """A number that is not a time.

    :ivar key: its name at the top of benchmark.json.
    :ivar maximum: what it should be at most.
    """

    key: str
    name: str
    value: float
    unit: str
    maximum: float

    @property
    def goals(self) -> tuple[tuple[str, bool], ...]:
        """The goal in words, and whether it is met."""
        return ((f"<= {self.maximum:g} {self.unit}", self.value <= self.maximum),)


@dataclass(frozen=True)
class NotMeasured:
    """What could not be measured, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Spent:
    """Time in seconds: on the wall's clock, and of all processors, children included."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Result:
    """What a comparison measured: the medians of all rounds."""

    group: str
    comparison: Comparison
    ours: Spent
    theirs: Spent

    @property
    def ratio(self) -> float:
        """Our time, in theirs."""
        return self.ours.wall / self.theirs.wall

    @property
    def cpu_ratio(self) -> float:
        """Our processor time, in theirs."""
        return self.ours.cpu / max(self.theirs.cpu, 1e-6)

    @property
    def excess(self) -> float:
        """How much longer ours takes, in seconds."""
        return self.ours.wall - self.theirs.wall

    @property
    def value(self) -> float:
        """What stands at the top of benchmark.json."""
        return {
            Quantity.RATIO: self.ratio,
            Quantity.SECONDS: self.ours.wall,
            Quantity.EXCESS: self.excess,
        }[self.comparison.quantity]

    @property
    def goals(self) -> tuple[tuple[str, bool], ...]:
        """Each goal in words, and whether it is met."""
        wanted = self.comparison
        found = []
        if wanted.ratio_max is not None:
            found.append((f"ratio <= {wanted.ratio_max:g}", self.ratio <= wanted.ratio_max))
        if wanted.seconds_max is not None:
            found.append((f"<= {wanted.seconds_max:g} s", self.ours.wall <= wanted.seconds_max))
        if wanted.excess_max is not None:
            found.append((f"excess <= {wanted.excess_max:g} s", self.excess <= wanted.excess_max))
        return tuple(found)


Benchmark = Callable[[Setting], Iterator[Comparison | Figure | NotMeasured]]

#: Name to function, in the order of registration.
BENCHMARKS: dict[str, Benchmark] = {}

#: Those that have a small form.
SMALL: set[str] = set()


def benchmark(name: str, *, small: bool = False) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark.

    :param small: whether it has a small form, which needs no fetched kernel.
    """

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        if small:
            SMALL.add(name)
        return function

    return register


def measure(group: str, comparison: Comparison, rounds: int = ROUNDS) -> Result:
    """Do both ways in turns and take the medians."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_spent(comparison.ours))
        theirs.append(_spent(comparison.theirs))
        if max(ours[-1].wall, theirs[-1].wall) > LONG:
            break
    return Result(group, comparison, _median(ours), _median(theirs))


def _median(all_spent: list[Spent]) -> Spent:
    return Spent(median(s.wall for s in all_spent), median(s.cpu for s in all_spent))


def _spent(do: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    do()
    return Spent(time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
