"""Record the result of each patch of a livepatch: in it, or left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from klpbuild.errors import KlpError, Problem, Problems
from klpbuild.terminal.columns import columns


class Standing(StrEnum):
    """Result of a patch."""

    IN = "in"
    IDLE = "changes nothing in this kernel"
    SKIPPED = "left out on purpose"
    NOT_APPLIED = "does not apply"
    CONFLICTS = "conflicts"
    NEEDS = "needs another"
    NOT_COMPILED = "does not compile"
    REFUSED = "refused"
    NOT_TRIED = "not tried"


#: Results with which nothing is wrong with a patch.
GOOD = frozenset({Standing.IN, Standing.IDLE, Standing.SKIPPED})


@dataclass(frozen=True)
class Fault(Problem):
    """A problem that a patch has.

    :ivar standing: the patch's result by it.
    :ivar patches: the names of the patches that may be at fault, one or several.
    :ivar others: the names of those that it conflicts with, or needs.
    :ivar object: the kernel's object that it is about, as kbuild calls it; may be empty.
    """

    standing: Standing = field(default=Standing.REFUSED, compare=False)
    patches: tuple[str, ...] = field(default=(), compare=False)
    others: tuple[str, ...] = field(default=(), compare=False)
    object: str = field(default="", compare=False)


class IdleError(KlpError):
    """Patches change nothing in the kernel that they are built for."""


class PatchesError(KlpError):
    """Some patches cannot be in a livepatch.

    :ivar fixes: the result of each patch.
    """

    fixes: tuple[Fix, ...] = ()


def at_fault(
    error: KlpError,
    patches: Iterable[str],
    standing: Standing = Standing.REFUSED,
    object_: str = "",
) -> KlpError:
    """Add to an error the patches that may be at fault, where that is not said yet.

    :param patches: their names.
    :param object_: the kernel's object that it is about, as kbuild calls it.
    """
    if isinstance(error, IdleError):
        return error
    names = tuple(dict.fromkeys(patches))
    found: list[Problem] = []
    for problem in error.problems:
        if not isinstance(problem, Fault):
            told = problem.what, problem.where, problem.why, problem.hint
            problem = Fault(*told, standing, names, (), object_)
        if not problem.patches:
            problem = replace(problem, patches=names, object=object_ or problem.object)
        found.append(problem)
    return KlpError.together(found)


@contextmanager
def faults(problems: Problems, patches: Iterable[str], object_: str = "") -> Iterator[None]:
    """Collect what is raised in the block as problems of one of these patches."""
    with problems.collect():
        try:
            yield
        except KlpError as error:
            raise at_fault(error, patches, object_=object_) from error


@dataclass(frozen=True)
class Fix:
    """A patch of a livepatch, or a part of C files, and its result.

    :ivar patch: the patch file's name; empty for a part of C files.
    :ivar subject: its title; empty when it has none.
    :ivar cves: the CVE numbers that it names.
    :ivar why: why it is not in the livepatch; empty when it is.
    :ivar others: the names of the patches that it conflicts with, or needs.
    :ivar functions: the kernel's functions that it changes, ``object:function``.
    :ivar part: the part of the livepatch that it is from; empty without parts.
    """

    patch: str
    standing: Standing
    subject: str = ""
    cves: tuple[str, ...] = ()
    why: str = ""
    others: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    part: str = ""

    @property
    def name(self) -> str:
        """Return the patch, behind the name of its part."""
        return "/".join(name for name in (self.part, self.patch) if name)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.standing in GOOD

    @property
    def result(self) -> str:
        """The result and the reason, in one line."""
        others = f" {'with ' if self.standing is Standing.CONFLICTS else ''}"
        words = str(self.standing)
        if self.standing is Standing.NEEDS and self.others:
            words = "needs"
        if self.others:
            words += others + ", ".join(self.others)
        first = self.why.partition("\n")[0]
        return f"{words}: {first}" if first else words


def fix_table(fixes: Sequence[Fix]) -> tuple[str, ...]:
    """Write the result of each of several patches, a line each, with a heading and a count."""
    if len(fixes) < 2:
        return ()
    kind = "part" if any(fix.part for fix in fixes) else "patch"
    rows = [(kind, "CVE", "functions", "result")]
    for fix in fixes:
        functions = _short([name.partition(":")[2] for name in fix.functions])
        result = f"{fix.result}; {fix.subject}" if fix.good and fix.subject else fix.result
        rows.append((fix.name, _short(fix.cves), functions, result))
    return (*columns(rows), count(fixes))


def count(fixes: Sequence[Fix]) -> str:
    """Count the patches of each standing, in one line."""
    found = [(standing, sum(fix.standing is standing for fix in fixes)) for standing in Standing]
    each = ", ".join(f"{number} {standing}" for standing, number in found if number)
    return f"{counted(len(fixes), fixes)}: {each}."


def counted(number: int, fixes: Sequence[Fix]) -> str:
    """Count patches, such as ``2 patches``; fixes, where parts of C files are among them."""
    kind = "fix" if any(fix.part for fix in fixes) else "patch"
    return f"{number} {kind}{'' if number == 1 else 'es'}"


def _short(names: Sequence[str]) -> str:
    """Join a few names, and say how many more there are."""
    shown = ", ".join(names[:2])
    return f"{shown} and {len(names) - 2} more" if len(names) > 2 else shown or "-"
