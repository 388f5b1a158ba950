"""How long each step of a build took, kept beside the build's log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

#: The file, in the kernel's directory of outputs.
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
    """Note how long the block takes, if it succeeds.

    :param build: the kernel's directory of outputs.
    """
    start = time.monotonic()
    yield
    seconds = round(time.monotonic() - start, 3)
    name = output.relative_to(build) if output.is_relative_to(build) else output.name
    line = json.dumps(asdict(Timing(step, str(name), seconds))) + "\n"
    with _lock:
        build.mkdir(parents=True, exist_ok=True)
        with (build / FILE_NAME).open("a") as file:
            file.write(line)


def read_timings(build: Path, module: str) -> tuple[Timing, ...]:
    """The last time of each step that made a livepatch, in the order in which they were done.

    :param module: ``livepatch-NAME``.
    """
    path = build / FILE_NAME
    found: dict[str, Timing] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        timing = Timing(**json.loads(line))
        first = timing.output.partition("/")[0]
        if first == module or first == "symbols.klp" or first.startswith(f"{module}."):
            found.pop(timing.output, None)
            found[timing.output] = timing
    return tuple(found.values())
