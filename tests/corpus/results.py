"""What became of each patch: JSON lines, one a patch, so that a run can be taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from klpbuild.files.whole import write_file

#: `Loading.outcome` of a module with which all went well.
LOADED = "loaded"
#: How `Loading.targets` begins for a module that the guest cannot load.
ABSENT = "not in the guest"


class Outcome(StrEnum):
    """How a build ended."""

    BUILT = "built"
    REFUSED = "refused"  #: klpbuild says why it cannot be a livepatch
    FAILED = "failed"  #: klpbuild itself is at fault


@dataclass(frozen=True)
class Reason:
    """One reason of a refusal, as klpbuild says it.

    :ivar kind: see `tests.corpus.reasons`.
    """

    kind: str
    what: str
    where: str = ""
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Loading:
    """What a kernel made of a module.

    :ivar outcome: `LOADED`, or what went wrong.
    :ivar targets: for each module that is patched, whether it could be loaded in the guest,
        was then shown as patched, and could be unloaded and loaded again.
    :ivar said: what the guest or its kernel said, where something went wrong.
    """

    outcome: str
    targets: dict[str, str]
    said: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a patch.

    :ivar patch: the file's name.
    :ivar objects: of the kernel, that the patch changes.
    :ivar functions: changed functions that have an ftrace entry, ``object/function``.
    :ivar traceback: of a failure.
    :ivar module: the finished module, relative to the directory of outputs.
    """

    patch: str
    outcome: Outcome
    seconds: float
    objects: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    traceback: str = ""
    module: str = ""
    loading: Loading | None = None

    @property
    def kind(self) -> str:
        """The kind of the first reason; empty for what was built."""
        return self.reasons[0].kind if self.reasons else ""


def as_line(result: Result) -> str:
    """A line of the results file, without its end."""
    return json.dumps(asdict(result))


def from_line(line: str) -> Result:
    """Read a line of the results file."""
    fields: dict[str, Any] = json.loads(line)
    loading = fields.pop("loading")
    for name in ("objects", "functions", "notes"):
        fields[name] = tuple(fields[name])
    return Result(
        outcome=Outcome(fields.pop("outcome")),
        reasons=tuple(Reason(**reason) for reason in fields.pop("reasons")),
        loading=Loading(**loading) if loading else None,
        **fields,
    )


class ResultsFile:
    """A file of results; what is written later about a patch replaces what stood there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_patch: dict[str, Result] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                self._keep(from_line(line))

    def _keep(self, result: Result) -> None:
        self.by_patch[result.patch] = result

    def add(self, result: Result) -> None:
        """Append a result at once, so that a run can be stopped at any time."""
        self._keep(result)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(as_line(result) + "\n")

    def tidy(self) -> None:
        """Write each patch once, in order of their names."""
        write_file(self.path, "".join(f"{as_line(r)}\n" for r in self).encode())

    def __iter__(self) -> Iterator[Result]:
        return iter(self.by_patch[name] for name in sorted(self.by_patch))
