"""Load each built livepatch in QEMU, many to one boot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.kernel.locate import locate
from klpbuild.names import VMLINUX
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import GroupResult
from klpbuild.vm.scenario import (
    Group,
    Insmod,
    Modprobe,
    Planned,
    WaitEnabled,
    load_and_unload,
    module_name,
)
from tests.corpus.progress import Progress
from tests.corpus.results import Loading, Result, ResultsFile


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
            loading = judge(done, result)
            results.add(replace(result, loading=loading))
            progress.finished(result.patch, f"{loading.outcome} {loading.targets or ''}".rstrip())

        guest.run(groups, progress=note)


def _group(module: Path, result: Result) -> Group:
    """Load the patched modules first: some do not, for want of their hardware."""
    group = load_and_unload(module)
    targets = [name for name in result.objects if name != VMLINUX]
    before = [Planned(Modprobe(name), fails=None, warns=True) for name in targets]
    return Group(group.name, (*before, *group.steps))


def judge(done: GroupResult, result: Result) -> Loading:
    """What a guest and its kernel made of a module."""
    targets = {}
    state = None
    loaded = False
    for step in done.steps:
        if isinstance(step.planned.step, Insmod):
            loaded = step.exit_status == 0
        if isinstance(step.planned.step, WaitEnabled):
            state = step.state
    for step in done.steps:
        if isinstance(step.planned.step, Modprobe):
            name = step.planned.step.name
            if step.exit_status:
                targets[name] = f"not in the guest: {step.output.strip()}"
            elif state is not None and (livepatch := state.livepatch(done.group.name)):
                patched = dict(livepatch.objects).get(name)
                targets[name] = "patched" if patched else "not patched"
    if not loaded:
        outcome = "refused by the kernel"
    elif done.faults:
        outcome = "warnings"
    elif not done.passed or "not patched" in targets.values():
        outcome = "not ended"
    else:
        outcome = "loaded"
    said = [step.problem for step in done.steps if step.problem]
    said += [str(line) for fault in done.faults for line in fault.lines]
    return Loading(outcome, targets, "\n".join(said))
