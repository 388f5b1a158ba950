"""Record how long each step of a build took, beside the build's log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from klpbuild.files import from_json, read_record, write_file

#: Name of the file, in the kernel's directory of outputs.
FILE_NAME = "timings.jsonl"

_lock = threading.Lock()


@dataclass(frozen=True)
class Timing:
    """A step that was done.

    :ivar step: its word in the build's output: ``CC``, ``KLP``.
    :ivar output: what it made, relative to the kernel's directory of outputs.
    """

    step: str
    output: str
    seconds: float


@contextmanager
def timed(build: Path, step: str, output: Path) -> Iterator[None]:
    """Measure how long the block takes, and record it if the block succeeds.

    :param build: the kernel's directory of outputs.
    """
    start = time.monotonic()
    yield
    seconds = round(time.monotonic() - start, 3)
    name = output.relative_to(build) if output.is_relative_to(build) else output.name
    with _lock:
        others = read_record(build / FILE_NAME, partial(_without, str(name))) or ()
        lines = (*others, json.dumps(asdict(Timing(step, str(name), seconds))))
        write_file(build / FILE_NAME, "".join(f"{line}\n" for line in lines).encode())


def _without(output: str, data: bytes) -> list[str]:
    """Drop the line of an output."""
    return [line for line in data.decode().splitlines() if json.loads(line)["output"] != output]


def read_timings(build: Path, module: str) -> tuple[Timing, ...]:
    """Read the last time of each step that made a livepatch, in the order in which they ran.

    :param module: ``livepatch-NAME``.
    """
    return tuple(timing for timing in _read(build) if _is_of(timing.output, module))


def _read(build: Path) -> tuple[Timing, ...]:
    return read_record(build / FILE_NAME, _parse) or ()


def _parse(data: bytes) -> tuple[Timing, ...]:
    return tuple(from_json(Timing, line) for line in data.splitlines())


def _is_of(output: str, module: str) -> bool:
    first = output.partition("/")[0]
    return first in (module, "symbols.klp") or first.startswith(f"{module}.")
