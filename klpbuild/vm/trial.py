"""Try livepatches on their kernel: what a file shows before, with and after them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.redirected import look_at
from klpbuild.vm.result import End, GroupResult, Status, StepResult
from klpbuild.vm.scenario import (
    Group,
    Insmod,
    Modprobe,
    Planned,
    ReadFile,
    ReadRedirected,
    Rmmod,
    Step,
    WaitEnabled,
    holds_itself,
    module_name,
    unload,
)

_NUMBER = re.compile(r"\d+")
_SPACE = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class Wanted:
    """Plan of a trial: what to load, what to read, and what must change.

    :ivar livepatches: module files, loaded in this order and unloaded in the reverse one.
    :ivar watch: files of the guest to read before, with and after the livepatches.
    :ivar modprobe: modules of the kernel to load before the livepatches.
    :ivar late: modules of the kernel to load after the livepatches.
    :ivar expect: texts, each of which a watched file must show with the livepatches
        loaded, and none without.
    :ivar must_change: whether each watched file must change; numbers do not count, since in
        files like /proc/meminfo they never stay.
    :ivar targets: modules of the kernel that the livepatches patch, loaded before the livepatches
        and once more after them; that one cannot be loaded is no failure.
    """

    livepatches: Sequence[Path]
    watch: Sequence[str] = ()
    modprobe: Sequence[str] = ()
    late: Sequence[str] = ()
    expect: Sequence[str] = ()
    must_change: bool = False
    targets: Sequence[str] = ()

    def group(self) -> Group:
        """List the steps that a guest does for it.

        :raises KlpError: when a file is not a module, or nothing is there to see a change in.
        """
        if not self.livepatches:
            raise KlpError("no livepatch to boot with", hint="Name a .ko file.")
        if not self.watch and (self.expect or self.must_change):
            raise KlpError(
                "no file is watched, so nothing can show a change",
                hint="Name one, for example --watch /proc/meminfo.",
            )
        names = [module_name(path) for path in self.livepatches]
        look = tuple(ReadFile(path) for path in self.watch)
        pairs = list(zip(self.livepatches, names, strict=True))
        load = [step for path, name in pairs for step in (Insmod(path), WaitEnabled(name))]
        gone = [step for path, name in reversed(pairs) for step in unload(path, name)]
        targets = [Planned(Modprobe(name), fails=None) for name in self.targets]
        steps: list[Planned | Step] = [Modprobe(name) for name in self.modprobe]
        steps += [*targets, *look, *load]
        steps += [Modprobe(name) for name in self.late]
        steps += [ReadRedirected(), *look, *gone, *look]
        if targets and not any(map(holds_itself, self.livepatches)):
            away = [Planned(Rmmod(t, if_loaded=True), fails=None) for t in reversed(self.targets)]
            steps += [*away, *load, *targets, ReadRedirected(), *gone]
        return Group(", ".join(names), tuple(steps))


@dataclass(frozen=True)
class FileSeen:
    """A watched file, as the guest showed it; None where it could not be read.

    :ivar before: before the first livepatch.
    :ivar patched: with all of them, the transitions ended.
    :ivar after: when they are unloaded.
    """

    path: str
    before: str | None
    patched: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        """Whether the livepatches changed it in more than its numbers."""
        return masked(self.before or "") != masked(self.patched or "")


@dataclass(frozen=True)
class Trial:
    """Result of a trial.

    :ivar problems: why it failed, in order; empty when all went as wanted.
    :ivar redirected: the functions that ftrace redirected, by object.
    :ivar not_tried: what the trial does not show.
    """

    wanted: Wanted
    result: GroupResult
    files: tuple[FileSeen, ...]
    problems: tuple[str, ...]
    redirected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_tried: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all went as wanted."""
        return not self.problems


def boot_livepatch(kernel: Kernel, wanted: Wanted, directory: Path | None = None) -> Trial:
    """Boot a kernel, load livepatches, see what changes, unload them.

    :param directory: keeps the guest's console; None for nowhere.
    :raises KlpError: when the guest cannot be booted; what goes wrong after that is in the
        trial's `problems`.
    """
    (result,) = Guest(kernel, directory).run([wanted.group()])
    return judge_trial(wanted, result)


def judge_trial(wanted: Wanted, result: GroupResult) -> Trial:
    """Compare what a guest showed with what was wanted."""
    files = _files(wanted, result.steps)
    problems = [s.problem for s in result.steps if s.status in (Status.FAILED, Status.LOST)]
    if result.end is End.UNCLEAN:
        problems.append("a livepatch is still loaded at the end")
    seen = look_at(result.steps, wanted.targets)
    if not problems:
        problems += [*seen.problems, *_unseen(wanted, files)]
    not_tried = [*seen.not_tried]
    if not wanted.watch:
        not_tried.append("what the new functions do, since no file is watched")
    return Trial(wanted, result, files, tuple(problems), seen.redirected, tuple(not_tried))


def _files(wanted: Wanted, steps: tuple[StepResult, ...]) -> tuple[FileSeen, ...]:
    found = []
    for path in wanted.watch:
        reads = [step for step in steps if step.planned.step == ReadFile(path)]
        # A path that is watched twice is read twice at each of the three times.
        times = len(reads) // 3
        before, patched, after = (reads[index * times] for index in range(3))
        found.append(FileSeen(path, *(_output(step) for step in (before, patched, after))))
    return tuple(found)


def _output(step: StepResult) -> str | None:
    return step.output if step.exit_status == 0 else None


def _unseen(wanted: Wanted, files: tuple[FileSeen, ...]) -> list[str]:
    problems = []
    for text in wanted.expect:
        if not any(text in (seen.patched or "") for seen in files):
            problems.append(f"no watched file shows {text!r} with the livepatch loaded")
        for seen in files:
            if text in (seen.before or ""):
                problems.append(f"{seen.path} shows {text!r} already before the livepatch")
            if text in (seen.after or ""):
                problems.append(f"{seen.path} still shows {text!r} without the livepatch")
    if wanted.must_change:
        for seen in files:
            if not seen.changed:
                problems.append(f"{seen.path} is unchanged with the livepatch loaded")
            elif masked(seen.after or "") != masked(seen.before or ""):
                problems.append(f"{seen.path} is not as before without the livepatch")
    return problems


def masked(text: str) -> list[str]:
    """Mask what changes by itself in a file's lines: each number is ``0``."""
    lines = text.splitlines()
    return [_SPACE.sub(" ", _NUMBER.sub("0", line)).rstrip() for line in lines]
