"""Combine kernels and livepatches: what is built for which, and the table of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from klpbuild.check.rule import RefusedError, Report, Severity
from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_output, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import check_for_kernel
from klpbuild.patch.fix import Fix, PatchesError, counted
from klpbuild.request.chosen import Chosen, Named
from klpbuild.request.given import locate_kernel
from klpbuild.request.variables import Variables
from klpbuild.terminal.columns import columns


@dataclass(frozen=True)
class Located:
    """A kernel that the user names.

    :ivar word: how.
    :ivar kernel: None if it cannot be used.
    :ivar error: why not.
    """

    word: str
    kernel: Kernel | None
    error: KlpError | None = None


def locate_kernels(
    words: str, fixtures: Path, build: Path, variables: Variables, modules: Sequence[Path] = ()
) -> tuple[Located, ...]:
    """Find the kernels that ``kernel=`` names, with commas between.

    :param variables: KSRC and sources of symbols are one kernel's.
    :param modules: further modules; a directory may hold those of several kernels.
    :raises KlpError: when none is named, or sources of symbols are given for several.
    """
    named = tuple(dict.fromkeys(word for word in words.split(",") if word))
    if not named:
        raise KlpError("no kernel is named", hint="kernel=RELEASE")
    of_one = [*variables.symbols, *(["KSRC"] if variables.source else [])]
    if of_one and len(named) > 1:
        raise KlpError(
            f"{of_one[0]}= is for one kernel, and {len(named)} are named",
            hint="Build for one kernel at a time, or let klpbuild find the symbols.",
        )
    located: list[Located] = []
    for word in named:
        try:
            kernel = locate_kernel(word, fixtures, build, variables, modules)
            _check_distinct(word, kernel, located)
            located.append(Located(word, kernel))
        except KlpError as error:
            located.append(Located(word, None, error))
    return tuple(located)


def _check_distinct(word: str, kernel: Kernel, others: Sequence[Located]) -> None:
    """Refuse two words that name one kernel: both would write the same files."""
    for other in others:
        if other.kernel is not None and other.kernel.name == kernel.name:
            raise KlpError(
                f"kernel {word!r} is named twice",
                why=f"{other.word!r} is {kernel.name}, too.",
                hint="Leave one of them out.",
            )


class Outcome(StrEnum):
    """Outcome of building a livepatch for a kernel."""

    LOADS = "would load"
    REFUSED = "refused"
    FAILED = "failed"
    NOT_BUILT = "not built"
    OTHER_KERNEL = "not for this kernel"


#: Outcomes with which a run fails.
_BAD = (Outcome.REFUSED, Outcome.FAILED, Outcome.NOT_BUILT)


@dataclass(frozen=True)
class Result:
    """Result of building a livepatch for a kernel.

    :ivar kernel: as its directory of results is called.
    :ivar livepatch: its name.
    :ivar detail: findings, or the first thing that is wrong; may be empty.
    :ivar findings: how many of each severity `klpbuild.check` has, by its word.
    :ivar booted: whether the kernel loaded it in QEMU; None if that was not tried.
    :ivar fixes: the result of each of its patches, and of its parts of C files.
    """

    kernel: str
    livepatch: str
    outcome: Outcome
    detail: str = ""
    findings: tuple[tuple[str, int], ...] = ()
    booted: bool | None = None
    fixes: tuple[Fix, ...] = ()

    @classmethod
    def of_check(
        cls, kernel: str, livepatch: str, report: Report, fixes: tuple[Fix, ...] = ()
    ) -> Result:
        """Make the result of a module that was checked."""
        counts = tuple((s.word, count) for s, count in report.counts.items())
        refused = report.at_least(Severity.ERROR)
        outcome = Outcome.REFUSED if refused else Outcome.LOADS
        return cls(kernel, livepatch, outcome, report.found, counts, fixes=fixes)

    @classmethod
    def of_error(cls, kernel: str, livepatch: str, error: KlpError) -> Result:
        """Make the result of a build that ended with an error."""
        if isinstance(error, RefusedError):
            return cls.of_check(kernel, livepatch, error.report)
        first, *others = error.problems
        detail = str(first).partition("\n")[0]
        if others:
            detail += f" ({len(others)} more)"
        fixes = error.fixes if isinstance(error, PatchesError) else ()
        return cls(kernel, livepatch, Outcome.FAILED, detail, fixes=fixes)

    def after_boot(self, passed: bool) -> Result:
        """Add whether the kernel booted with it."""
        return replace(self, booted=passed)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        whole = all(fix.good for fix in self.fixes)
        return self.outcome not in _BAD and self.booted is not False and whole

    def write(self, path: Path) -> None:
        """Write the result beside the module."""
        write_file(path, to_json(self))

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read what `write` wrote.

        :raises KlpError: when it is missing or damaged.
        """
        return read_output(path, partial(from_json, cls))

    @property
    def text(self) -> str:
        """The result's words in the table."""
        booted = {None: "", True: ", loaded in QEMU", False: ", failed in QEMU"}[self.booted]
        detail = f": {self.detail}" if self.detail else ""
        left = sum(not fix.good for fix in self.fixes) if self.outcome is not Outcome.FAILED else 0
        without = f", without {left} of {counted(len(self.fixes), self.fixes)}" if left else ""
        return f"{self.outcome}{without}{booted}{detail}"


@dataclass(frozen=True)
class Cell:
    """A livepatch for a kernel, as the user asks for it.

    :ivar chosen: what to build; None if there is nothing to build.
    :ivar error: why it cannot be built; None if it need not.
    """

    name: str
    chosen: Chosen | None
    error: KlpError | None = None


def cells(named: Sequence[Named], kernel: Kernel, kernels: Sequence[Kernel]) -> tuple[Cell, ...]:
    """List what is asked for of one kernel.

    A livepatch that is named must be for one of the kernels at least.

    :param kernels: all that are asked for.
    """
    found = []
    for each in named:
        error = each.error
        if error is None and each.by_name and not any(map(each.is_for, kernels)):
            try:
                assert each.chosen is not None
                check_for_kernel(each.chosen.livepatch, kernel.name, kernel.release)
            except KlpError as other:
                error = other
        fits = error is None and each.is_for(kernel)
        found.append(Cell(each.name, each.chosen if fits else None, error))
    return tuple(found)


def table(results: Sequence[Result]) -> list[str]:
    """Write the results as a table, a line each, with a heading and a count."""
    rows = [("kernel", "livepatch", "result")]
    rows += [(r.kernel, r.livepatch, r.text) for r in results]
    counts = Counter(r.outcome for r in results)
    count = ", ".join(f"{counts[o]} {o}" for o in Outcome if counts[o])
    return [*columns(rows), f"{len(results)} in all: {count}."]
