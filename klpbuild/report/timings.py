"""Record how long each step of a build took, beside the build's log, and show that."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from klpbuild.files.records import from_json, read_record
from klpbuild.files.whole import write_file
from klpbuild.terminal.stopwatch import Spent, now, parts

#: Name of the file, in the kernel's directory of outputs.
FILE_NAME = "timings.jsonl"

_lock = threading.Lock()

#: What was done in this process, in order, failed or not.
_DONE: list[Timing] = []


@dataclass(frozen=True)
class Timing:
    """A step that was done.

    :ivar step: its word in the build's output: ``CC``, ``KLP``.
    :ivar output: what it made, relative to the kernel's directory of outputs.
    :ivar cpu: seconds of all processors; of all steps that are done at once.
    :ivar parts: seconds and processor seconds of its parts.
    """

    step: str
    output: str
    seconds: float
    cpu: float = 0.0
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@contextmanager
def timed(build: Path, step: str, output: Path) -> Iterator[None]:
    """Measure how long the block takes, and record it if the block succeeds.

    :param build: the kernel's directory of outputs.
    """
    start = now()
    name = str(output.relative_to(build) if output.is_relative_to(build) else output.name)
    with parts() as took:
        try:
            yield
        finally:
            spent = now() - start
            measured = {part: _rounded(each) for part, each in took.items()}
            timing = Timing(step, name, *_rounded(spent), measured)
            _DONE.append(timing)
    with _lock:
        others = read_record(build / FILE_NAME, partial(_without, name)) or ()
        lines = (*others, json.dumps(asdict(timing)))
        write_file(build / FILE_NAME, "".join(f"{line}\n" for line in lines).encode())


def _rounded(spent: Spent) -> tuple[float, float]:
    return round(spent.wall, 3), round(spent.cpu, 3)


def done() -> tuple[Timing, ...]:
    """List what this process has done, and as ``start`` what it did beside that."""
    rest = now()
    for timing in _DONE:
        rest -= Spent(timing.seconds, timing.cpu)
    wall, cpu = _rounded(rest)
    return (Timing("start", "", max(wall, 0.0), max(cpu, 0.0)), *_DONE)


def timing_table(timings: Sequence[Timing]) -> list[str]:
    """Format a line for each step and each of its parts, and one for all."""
    rows = [("seconds", "processor", "step", "")]
    for timing in timings:
        rows.append((f"{timing.seconds:.2f}", f"{timing.cpu:.2f}", timing.step, timing.output))
        rows += [
            (f"{seconds:.2f}", f"{cpu:.2f}", f"  {name}", "")
            for name, (seconds, cpu) in timing.parts.items()
        ]
    seconds, cpu = sum(t.seconds for t in timings), sum(t.cpu for t in timings)
    rows.append((f"{seconds:.2f}", f"{cpu:.2f}", "all", ""))
    width = max((len(step) for _, _, step, output in rows if output), default=0)
    return [f"{s:>8} {c:>10}  {step:{width if output else 0}}  {output}".rstrip()
            for s, c, step, output in rows]  # fmt: skip


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
