"""Give damaged inputs to readers: a good answer is a result or a `KlpError`, in little time."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType

from klpbuild.errors import KlpError
from tests.hardening.readers import Reader

#: What one input may take, in seconds of processor time, which a busy machine does not change,
#: and the process in all, in bytes.
SECONDS_MAX = 10
MEMORY_MAX = 1 << 30


class HangError(BaseException):
    """An input took longer than `SECONDS_MAX`; no reader can take it for damage."""


@dataclass(frozen=True)
class Failure:
    """An input with a bad answer.

    :ivar seed: `damaged` makes the input again from it.
    :ivar what: the traceback.
    """

    reader: str
    seed: str
    what: str
    data: bytes = field(repr=False)


@dataclass
class Figures:
    """What came of the inputs of a reader.

    :ivar longest: the processor time of the slowest input, in seconds.
    """

    inputs: int = 0
    refused: int = 0
    longest: float = 0.0
    failures: list[Failure] = field(default_factory=list)


@contextmanager
def bounded() -> Iterator[None]:
    """Limit the memory of the process."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MAX, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def damaged(reader: Reader, seed: str) -> bytes:
    """The input of a seed."""
    random = Random(f"{reader.name} {seed}")
    whole = list(reader.whole)
    random.shuffle(whole)
    return reader.mutate(random, whole)


def run(reader: Reader, inputs: int, seed: str, figures: Figures | None = None) -> Figures:
    """Give a reader so many inputs; the same seed gives the same ones."""
    figures = figures or Figures()
    before = signal.signal(signal.SIGPROF, _hang)
    try:
        for number in range(inputs):
            _try(reader, f"{seed}/{number}", figures)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return figures


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"takes more than {SECONDS_MAX} s")


def _try(reader: Reader, seed: str, figures: Figures) -> None:
    data = damaged(reader, seed)
    figures.inputs += 1
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS_MAX)
    try:
        reader.use(data)
    except KlpError as error:
        figures.refused += 1
        assert str(error)
    except (Exception, HangError) as error:
        figures.refused += 1
        if not isinstance(error, reader.damage):
            failure = Failure(reader.name, seed, traceback.format_exc(), data)
            figures.failures.append(failure)
    signal.setitimer(signal.ITIMER_PROF, 0)
    figures.longest = max(figures.longest, time.process_time() - begun)
