"""Load each built livepatch in QEMU, many to one boot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.kernel.locate import locate
from klpbuild.names import VMLINUX
from klpbuild.vm.guest import Guest
from klpbuild.vm.log import FaultKind
from klpbuild.vm.result import GroupResult
from klpbuild.vm.scenario import (
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    WaitEnabled,
    load_and_unload,
    module_name,
)
from tests.corpus.progress import Progress
from tests.corpus.results import ABSENT, LOADED, Loading, Result, ResultsFile


def load_all(
    wanted: Sequence[Result],
    kernel_name: str,
    results: ResultsFile,
    output: Path,
    size: int,
    progress: Progress,
) -> None:
    """Load, wait for the transition, disable and unload each module.

    :param size: modules to one boot.
    """
    kernel = locate(kernel_name)
    guest = Guest(kernel, output / "boots")
    for first in range(0, len(wanted), size):
        by_name = {}
        groups = []
        for result in wanted[first : first + size]:
            module = output / result.module
            progress.started(result.patch)
            by_name[module_name(module)] = result
            groups.append(_group(module, result))

        def note(done: GroupResult, by_name: dict[str, Result] = by_name) -> None:
            result = by_name[done.group.name]
            loading = judge(done)
            results.add(replace(result, loading=loading))
            progress.finished(result.patch, f"{loading.outcome} {loading.targets or ''}".rstrip())

        guest.run(groups, progress=note)


def _group(module: Path, result: Result) -> Group:
    """Load, unload and load again what is patched: some of it needs absent hardware."""
    group = load_and_unload(module)
    at = next(i for i, step in enumerate(group.steps) if isinstance(step, WaitEnabled)) + 1
    targets = [name for name in result.objects if name != VMLINUX]
    before = [Planned(Modprobe(name), fails=None, warns=True) for name in targets]
    again = [Planned(step(name), fails=None) for name in targets for step in (Rmmod, Modprobe)]
    return Group(group.name, (*before, *group.steps[:at], *again, *group.steps[at:]))


def judge(done: GroupResult) -> Loading:
    """What a guest and its kernel made of a module."""
    state: dict[str, bool | None] = {}
    targets: dict[str, str] = {}
    removed: set[str] = set()
    loaded = enabled = False
    faults = []
    for result in done.steps:
        step, fine = result.planned.step, result.exit_status == 0
        if loaded or isinstance(step, Insmod):
            # A stall is the host's fault; what a module says before is its own affair.
            faults += [fault for fault in result.faults if fault.kind is not FaultKind.STALL]
        if isinstance(step, Insmod):
            loaded = fine
        elif isinstance(step, WaitEnabled):
            enabled = fine
        elif isinstance(step, Rmmod) and fine:
            removed.add(step.name)
        elif isinstance(step, Modprobe) and not loaded:
            targets[step.name] = "" if fine else f"{ABSENT}: {result.output.strip()}"
        elif isinstance(step, Modprobe) and not targets[step.name]:
            livepatch = result.state.livepatch(done.group.name) if result.state else None
            state = dict(livepatch.objects) if livepatch else {}
            targets[step.name] = _target(fine, state.get(step.name), step.name in removed)
    if not loaded:
        outcome = "refused by the kernel"
    elif faults:
        outcome = "warnings"
    elif not enabled or not done.passed:
        outcome = "not ended"
    elif any(what.startswith("not patched") for what in targets.values()):
        outcome = "not patched"
    else:
        outcome = LOADED
    said = [result.problem for result in done.steps if result.problem]
    said += [str(line) for fault in faults for line in fault.lines]
    return Loading(outcome, targets, "\n".join(said))


def _target(fine: bool, patched: bool | None, removed: bool) -> str:
    """What became of a patched module that was loaded before the livepatch."""
    if not fine or not patched:
        return "not patched" + (" when loaded again" if removed else "")
    return "patched, also when loaded again" if removed else "patched"
