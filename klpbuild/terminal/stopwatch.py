"""Measure what the parts of a step cost, on the wall's clock and in processor time."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spent:
    """Time in seconds.

    :ivar wall: on the wall's clock.
    :ivar cpu: of all processors, by this process and the programs that it ran.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Spent:
    """Tell what this process and the programs that it ran have spent since it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + children.ru_utime + children.ru_stime
    return Spent(time.clock_gettime(time.CLOCK_BOOTTIME) - _started(), cpu)


def _started() -> float:
    """Find when this process started, as its proc(5) file says."""
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


class _Measured(threading.local):
    """The parts that this thread is in, the innermost last, and what each took."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.since = Spent()
        self.took: dict[str, Spent] = {}

    def switch(self) -> None:
        """Count what was spent for the part that the thread is in."""
        moment = now()
        if self.inside:
            name = self.inside[-1]
            self.took[name] = self.took.get(name, Spent()) + (moment - self.since)
        self.since = moment


_thread = _Measured()


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Measure a part of a step; what it spends in another part is counted there."""
    _thread.switch()
    _thread.inside.append(name)
    try:
        yield
    finally:
        _thread.switch()
        _thread.inside.pop()


@contextmanager
def parts() -> Iterator[dict[str, Spent]]:
    """Collect what the parts in the block take."""
    before, _thread.took = _thread.took, {}
    try:
        yield _thread.took
    finally:
        _thread.took = before
