"""Decide which patches of a livepatch are in it, and which are to be left out.

All patches are tried together.  A problem names the patches that may be at fault: those that
touch its object.  Of several, the first with which the object has a problem is found by
bisection.  What is at fault is left out, and the others are tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from klpbuild.errors import KlpError, Problem
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.module.listed import LIST
from klpbuild.patch.fix import Fault, Fix, IdleError, PatchesError, Standing, counted
from klpbuild.patch.patchfile import file_names, needed_patch
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.extracted import Extracted
from klpbuild.pipeline.from_patch import extract_patches
from klpbuild.report.references import ReferenceKind, described_references, read_patch_header
from klpbuild.request.chosen import Chosen, Part
from klpbuild.request.matrix import Result

#: Extracts some patches, from all objects that they touch or from some only.
Extract = Callable[[Sequence[Path], Collection[str] | None], Extracted]

NOTHING_SKIPPED: Mapping[Path, str] = MappingProxyType({})

#: Limit on patches that are tried to find one that another one needs.
_TRIES = 5

#: Results that are known before anything is compiled.
_BEFORE_COMPILING = (Standing.NOT_APPLIED, Standing.CONFLICTS, Standing.NEEDS)


def extract_fixes(
    kernel: Kernel,
    patches: Sequence[Path],
    extract: Extract,
    skipped: Mapping[Path, str] = NOTHING_SKIPPED,
    keep_going: bool = False,
    listed: Sequence[Path] = (),
) -> Extracted:
    """Extract all patches together, or those that can be, and record each one's result.

    :param patches: applied in order.
    :param extract: extracts some of them.
    :param skipped: those that are left out on purpose, each with the reason.
    :param keep_going: whether patches may be left out that cannot be in a livepatch.
    :param listed: all of them, in the order in which they are told.
    :raises PatchesError: with the problems of all patches; with `keep_going`, when none is left.
    """
    trial = _Trial(kernel, tuple(patches), extract)
    extracted = trial.run()
    aside = [Fix(path.name, Standing.SKIPPED, why=why) for path, why in skipped.items()]
    paths = {path.name: path for path in (*patches, *skipped)}
    fixes = [_described(fix, paths[fix.patch]) for fix in (*trial.fixes(extracted), *aside)]
    order = {path.name: number for number, path in enumerate(listed)}
    fixes.sort(key=lambda fix: order.get(fix.patch, 0))
    if extracted is None or (trial.left and not keep_going):
        error = PatchesError.together(trial.problems)
        error.fixes = tuple(fixes)
        raise error
    return replace(extracted, fixes=tuple(fixes))


def extract_chosen(build: Build) -> Extracted:
    """Extract the patches of a livepatch, and record each one's result.

    ``result.json`` is written when that fails: after a success the steps behind it do.

    :raises PatchesError: with the problems of all patches.
    """
    kernel, chosen = build.kernel, build.chosen
    try:
        which = chosen.patches, partial(extract_patches, build), chosen.skipped
        return extract_fixes(kernel, *which, build.keep_going, chosen.listed)
    except KlpError as error:
        if isinstance(error, PatchesError):
            error.fixes = all_fixes(chosen, error.fixes, built=False)
        Result.of_error(kernel.name, chosen.livepatch.name, error).write(build.paths.result)
        raise


def all_fixes(chosen: Chosen, fixes: Sequence[Fix], *, built: bool = True) -> tuple[Fix, ...]:
    """List the result of each patch, and of each part of C files, in the order of the parts.

    :param fixes: of the patches.
    :param built: whether the C files were compiled.
    """
    if not chosen.parts:
        return tuple(fixes)
    found: list[Fix] = []
    for part in chosen.parts:
        names = {path.name for path in part.chosen.listed}
        told = {fix.patch: fix for fix in fixes}
        for path, why in chosen.skipped.items():  # nothing was extracted if all are left out
            if path.name in names and path.name not in told:
                fix = Fix(path.name, Standing.SKIPPED, why=why)
                told[path.name] = _described(fix, path)
        found += (replace(fix, part=part.name) for name, fix in told.items() if name in names)
        if not names and (part.name or part.chosen.livepatch.objects):
            found.append(_of_sources(part, Standing.IN if built else Standing.NOT_TRIED))
    return tuple(found)


def _of_sources(part: Part, standing: Standing) -> Fix:
    livepatch = part.chosen.livepatch
    why = part.why_not or ""
    if part.faults:
        standing, why = part.faults[0].standing, _reason(part.faults)
    if livepatch.has_list and part.taken and standing is Standing.IN and not livepatch.objects:
        standing, why = Standing.IDLE, f"no condition of its {LIST} holds"
    references = described_references(livepatch.references)
    return Fix(
        "",
        standing if part.taken or part.faults else Standing.SKIPPED,
        livepatch.description,
        tuple(r.id for r in references if r.kind is ReferenceKind.CVE),
        why,
        (),
        ()
        if part.faults
        else tuple(f"{o.name}:{f.old}" for o in livepatch.objects for f in o.functions),
        part.name or livepatch.name,
    )


def left_out(fixes: Sequence[Fix]) -> KlpError | None:
    """Make the error that ends a build in which patches were left out; None if none was."""
    bad = [fix for fix in fixes if not fix.good]
    if not bad:
        return None
    what = f"{counted(len(bad), fixes)} {'is' if len(bad) == 1 else 'are'} left out"
    return KlpError(what, why="\n".join(f"{fix.name}: {fix.result}" for fix in bad))


def _reason(faults: Sequence[Fault]) -> str:
    first, *more = faults
    why = f"{first.where}: {first.what}" if first.where else first.what
    return why + (f" ({len(more)} more)" if more else "")


@dataclass
class _Trial:
    """The patches of a livepatch, tried together until what is left works.

    :ivar left: by name, what is wrong with those that are left out.
    :ivar problems: all problems so far.
    :ivar nothing: why those that are left change nothing; None if they do.
    :ivar stopped: what is wrong and no patch's fault.
    """

    kernel: Kernel
    patches: tuple[Path, ...]
    extract: Extract
    left: dict[str, list[Fault]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nothing: IdleError | None = None
    stopped: Problem | None = None

    @property
    def remaining(self) -> list[Path]:
        return [patch for patch in self.patches if patch.name not in self.left]

    def run(self) -> Extracted | None:
        """Extract the patches, leaving out those at fault; None if none works."""
        while self.remaining:
            try:
                return self.extract(self.remaining, None)
            except IdleError as error:
                self.nothing = error
                self.problems += error.problems
                return None
            except KlpError as error:
                found = self._at_fault(error)
                if found is None:
                    return None
                if all(fault.patches[0] in self.left for fault in found):
                    raise AssertionError("leaves out nothing more") from error
                for fault in found:
                    self.problems.append(fault)
                    self.left.setdefault(fault.patches[0], []).append(fault)
        return None

    def fixes(self, extracted: Extracted | None) -> list[Fix]:
        """List the result of each patch, cover letters left out."""
        known = {fix.patch: fix for fix in extracted.fixes} if extracted else {}
        found = []
        for name in (patch.name for patch in self.patches):
            if name in self.left:
                faults = self.left[name]
                first = faults[0]
                found.append(Fix(name, first.standing, why=_reason(faults), others=first.others))
            elif name in known:
                found.append(known[name])
            elif extracted is None:
                found.append(self._without_result(name))
        return found

    def _without_result(self, name: str) -> Fix:
        if self.nothing is not None:
            return Fix(name, Standing.IDLE, why=self.nothing.problems[0].what)
        stopped = self.stopped
        return Fix(name, Standing.NOT_TRIED, why=stopped.what if stopped else "")

    def _at_fault(self, error: KlpError) -> list[Fault] | None:
        """Find the problems of patches that are to be left out, each with that one patch.

        :returns: None if something else is wrong.
        """
        given = [self._located(problem) for problem in error.problems]
        sure = [f for f in given if isinstance(f, Fault) and len(f.patches) == 1]
        unsure = [f for f in given if isinstance(f, Fault) and len(f.patches) > 1]
        if other := [problem for problem in given if not isinstance(problem, Fault)]:
            self.stopped = other[0]
            self.problems += given
            return None
        found = {id(f): f for f in sure}
        for fault in unsure if not sure else [f for f in unsure if f.object]:
            if not any(f.object == fault.object and fault.object for f in found.values()):
                found |= {id(f): f for f in self._narrowed(fault)}
        return [self._with_need(fault) for fault in found.values()]

    def _located(self, problem: Problem) -> Problem:
        """Add to a problem the patch that its place names, where nothing else is known."""
        if isinstance(problem, Fault):
            everyone = tuple(patch.name for patch in self.remaining)
            return problem if problem.patches else replace(problem, patches=everyone)
        name = problem.where.rpartition(":")[0]
        if name not in {patch.name for patch in self.patches}:
            return problem
        told = problem.what, problem.where, problem.why, problem.hint
        return Fault(*told, Standing.REFUSED, (name,))

    def _narrowed(self, fault: Fault) -> list[Fault]:
        """Find the first patch with which an object has this problem, by bisection.

        With fewer patches it may have others: one of them needs a patch behind it.
        """
        remaining = self.remaining
        ends = [i + 1 for i, patch in enumerate(remaining) if patch.name in fault.patches]
        only = frozenset({fault.object}) if fault.object else None
        ends = ends or [len(remaining)]
        low, high, last = 0, len(ends) - 1, [fault]
        while low < high:
            middle = (low + high) // 2
            problems = self._problems(remaining[: ends[middle]], only)
            if found := [p for p in problems if p.what == fault.what or p.where == fault.where]:
                high, last = middle, found
            else:
                low = middle + 1
        name = remaining[ends[high] - 1].name
        return [replace(f, patches=(name,)) for f in last]

    def _problems(self, patches: Sequence[Path], only: Collection[str] | None) -> list[Fault]:
        """Extract some of the patches, and list the problems."""
        try:
            self.extract(patches, only)
        except IdleError:
            return []
        except KlpError as error:
            found = (self._located(problem) for problem in error.problems)
            return [f if isinstance(f, Fault) else Fault(f.what, f.where, f.why, f.hint)
                    for f in found]  # fmt: skip
        return []

    def _with_need(self, fault: Fault) -> Fault:
        """Attribute a problem to the want of a patch that was left out, if that is so."""
        (name,) = fault.patches
        place = next(i for i, patch in enumerate(self.patches) if patch.name == name)
        left = [patch for patch in self.patches if patch.name in self.left]
        needed: Path | None = None
        if fault.standing in _BEFORE_COMPILING:
            earlier = [p for p in self.patches[:place] if p.name not in self.left]
            architecture = self.kernel.arch.kernel_name
            source = source_tree(self.kernel)
            needed = needed_patch(self.patches[place], earlier, left, source, architecture)
        elif fault.standing is Standing.NOT_COMPILED:
            sound = [p for p in left if self._may_help(p, fault)]
            needed = next((p for p in sound[:_TRIES] if self._compiles(fault, p)), None)
        if needed is None:
            return fault
        why = "\n".join(filter(None, (f"It needs {needed.name}, which is left out.", fault.why)))
        others = (needed.name,)
        return replace(fault, why=why, hint="", standing=Standing.NEEDS, others=others)

    def _may_help(self, patch: Path, fault: Fault) -> bool:
        """Tell whether a patch applies, and changes what an object may be compiled from."""
        if self.left[patch.name][0].standing in _BEFORE_COMPILING:
            return False
        own = f"{Path(fault.object).stem}.c".encode()
        return any(n == own or not n.endswith(b".c") for n in file_names(patch))

    def _compiles(self, fault: Fault, other: Path) -> bool:
        """Tell whether an object compiles once another patch is there, which is left out."""
        with_it = [p for p in self.patches if p.name not in self.left or p == other]
        found = self._problems(with_it, frozenset({fault.object}) if fault.object else None)
        if any(f.standing in _BEFORE_COMPILING for f in found):
            return False
        name = fault.patches[0]
        return not any(f.standing is Standing.NOT_COMPILED and name in f.patches for f in found)


def _described(fix: Fix, path: Path) -> Fix:
    """Add to a fix the subject and the CVE numbers of its patch."""
    header = read_patch_header(path)
    cves = (r.id for r in header.references if r.kind is ReferenceKind.CVE)
    return replace(fix, subject=header.subject, cves=tuple(cves))
