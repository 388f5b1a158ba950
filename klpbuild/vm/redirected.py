"""Read from a guest's steps which functions ftrace redirected, and what was not tried."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.graph.tables import read_patches
from klpbuild.kernel.ofmachine import check_machine
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.vm.result import Livepatch, StepResult
from klpbuild.vm.scenario import Modprobe, ReadRedirected, Rmmod

#: A line of enabled_functions (kernel/trace/ftrace.c, t_show); ``I``: where the function goes on
#: is changed, which nothing but livepatch does.
_LINE = re.compile(r"^(\S+)(?: \[(\S+)\])? \(\d+\)([^\t]*)", re.MULTILINE)
_WHEN = ("before", "after")


@dataclass(frozen=True)
class Seen:
    """Functions of livepatches, as ftrace tells of them.

    :ivar redirected: by object.
    :ivar problems: functions of loaded objects that are not redirected.
    :ivar not_tried: what could not be loaded, and what was not there.
    """

    redirected: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]
    not_tried: tuple[str, ...]


def targets_of(kernel: Kernel, livepatches: Iterable[Path], others: Iterable[str]) -> list[str]:
    """List the modules of a kernel that livepatches patch.

    :param others: modules that are loaded anyway.
    :raises KlpError: when one cannot be read, or is for another machine.
    """
    there = {object_name(path.name) for path in kernel.modules}
    patched = []
    for path in livepatches:
        elf = ElfFile.read(path)
        check_machine(path, kernel.arch)
        patched += [p.object for p in read_patches(elf)]
    known = {object_name(name) for name in others}
    return [name for name in dict.fromkeys(patched) if name in there and name not in known]


def look_at(steps: Sequence[StepResult], targets: Sequence[str]) -> Seen:
    """Compare what livepatches say that they patch with what ftrace says."""
    redirected: dict[str, dict[str, None]] = {}
    problems, not_tried, absent = list[str](), list[str](), dict[str, str]()
    looks = [n for n, step in enumerate(steps) if isinstance(step.planned.step, ReadRedirected)]
    for place, start, when in zip(looks, (0, *looks), _WHEN, strict=False):
        not_tried += _not_loaded(steps[start:place], targets, when)
        if steps[place].exit_status != 0:
            continue
        told = {(m[1], m[2] or VMLINUX) for m in _LINE.finditer(steps[place].output) if "I" in m[3]}
        for owner, (loaded, names) in _functions(steps[place]).items():
            lost = [name for name in names if (name, owner) not in told]
            if loaded is False:
                absent[owner] = ", ".join(names)
            elif lost and loaded:
                problems.append(f"{', '.join(lost)} of {owner} is not redirected")
            found = redirected.setdefault(owner, {})
            found |= {name: None for name in names if name not in lost}
    if targets and len(looks) == 1:
        not_tried.append(f"to load {', '.join(targets)} after the livepatch, which stays")
    not_tried += [
        f"{names} of {owner}, which was not loaded"
        for owner, names in absent.items()
        if not redirected.get(owner)
    ]
    plain = {owner: tuple(names) for owner, names in redirected.items() if names}
    return Seen(plain, tuple(problems), tuple(dict.fromkeys(not_tried)))


def _functions(step: StepResult) -> dict[str, tuple[bool | None, list[str]]]:
    """List the functions of enabled livepatches by object, and whether that is loaded."""
    found: dict[str, tuple[bool | None, list[str]]] = {}
    livepatches: tuple[Livepatch, ...] = step.state.livepatches if step.state else ()
    for livepatch in livepatches:
        for function in livepatch.functions if livepatch.enabled else ():
            owner, _, name = function.partition("/")
            loaded = dict(livepatch.objects).get(owner)
            found.setdefault(owner, (loaded, []))[1].append(name.rpartition(",")[0])
    return found


def _not_loaded(steps: Sequence[StepResult], targets: Sequence[str], when: str) -> list[str]:
    """Say which modules could not be loaded before or after the livepatches, and why."""
    found = []
    for result in steps:
        step, said = result.planned.step, result.output.strip().splitlines()
        if not result.exit_status or not isinstance(step, Modprobe | Rmmod):
            continue
        if step.name in targets:
            what = f"to load {step.name} {when} the livepatch"
            if isinstance(step, Rmmod):
                what += ", since it does not go"
            found.append(": ".join([what, *said[-1:]]))
    return found
