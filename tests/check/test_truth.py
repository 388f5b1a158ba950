"""What is predicted, Debian's own kernels do: for each rule, one module, in one guest.

With KLPBUILD_RECORD=1 what was observed is written to observed.json, from which
docs/check.md is made.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.check import catalogue
from klpbuild.check.catalogue import RULES
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect, Finding, Severity
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import End, GroupResult, StepResult
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    ReadFile,
    Rmmod,
    Step,
    WaitDisabled,
    WaitEnabled,
    WriteFile,
)
from tests.check.agreement import clean_up
from tests.check.breaks import BREAKS
from tests.check.editor import Broken
from tests.samples import SAMPLES, Built

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

OBSERVED = Path(__file__).with_name("observed.json")
#: What differs from boot to boot.
ADDRESS = re.compile(
    r"(?<=loc )[0-9a-f]+|(?<=val )[0-9a-f]+|(?<=address: )[0-9a-f]+|(?<=thunk: ).*"
    r"|CPU: \d+ PID: \d+"
)
Steps = tuple[Planned | Step, ...]
#: Seconds after which a transition is taken for one that does not end.
_NEVER = 20


def refused_late(path: Path, name: str, log: tuple[str, ...], again: bool) -> Steps:
    first: Steps = (Insmod(path), WaitEnabled(name))
    if again:
        first += (Modprobe("button"), Rmmod("button"))
    last = Planned(Modprobe("button"), fails=True, log=log, warns=True)
    return (*first, last, *clean_up(name), Planned(Rmmod("button", if_loaded=True), always=True))


def group_of(broken: Broken, finding: Finding, path: Path) -> Group:
    """The steps during which the kernel must do what was predicted."""
    name = f"livepatch_{broken.base}"
    log = (finding.says,) if finding.says else ()
    first = tuple(Modprobe(each) for each in broken.before)
    if broken.dies:
        used = (WaitEnabled(name), ReadFile(broken.uses)) if broken.uses else ()
        return Group(broken.rule, (Insmod(path), *used))
    if broken.stays:
        gone = (Disable(name), WaitDisabled(name), Planned(Rmmod(name), fails=True))
        return Group(broken.rule, (Insmod(path), WaitEnabled(name), *gone))
    if broken.waits:
        waits = Planned(WaitEnabled(name, _NEVER), fails=True)
        return Group(broken.rule, (Planned(Insmod(path)), waits, *clean_up(name)))
    if finding.effect is Effect.LATE:
        return Group(broken.rule, refused_late(path, name, log, broken.late == "button again"))
    if finding.effect is Effect.REFUSED:
        step = Planned(Insmod(path), fails=True, log=log, warns=True)
    else:
        warns = finding.effect is Effect.UNFORESEEN
        step = Planned(Insmod(path), log=log, warns=warns)
    last = tuple(Planned(Rmmod(each, if_loaded=True), always=True) for each in broken.before)
    return Group(broken.rule, (*first, step, *clean_up(name), *last))


def predicted(rule: str, data: bytes, file: Path, side: KernelSide) -> Finding:
    """What the kernel does: refuse the module, by that rule or another one that it breaks, too."""
    report = check_bytes(data, file.name, side)
    found = [finding for finding in report.findings if finding.rule.identifier == rule]
    assert found, f"{rule} is not found"
    refused = found[0].effect is Effect.ACCEPTED and report.refused
    return refused or found[0]


def observed(result: GroupResult) -> str:
    """In a few words, what the kernel did."""
    if result.end in (End.OOPS, End.PANIC):
        return f"dead: {ADDRESS.sub('...', result.faults[0].title)}"
    if any(isinstance(s.planned.step, WaitEnabled) and s.exit_status for s in result.steps):
        return "loaded: silent, and the transition does not end"
    loads = [s for s in result.steps if isinstance(s.planned.step, Insmod | Modprobe)]
    failed = [s for s in loads if s.planned.fails is True and s.exit_status]
    if failed:
        late = isinstance(failed[0].planned.step, Modprobe)
        return f"{'refused late' if late else 'refused'}: {_said(failed[0])}"
    return f"loaded: {_said(loads[-1])}"


def _said(step: StepResult) -> str:
    for text in step.planned.log:
        for line in step.log:
            if text in line.text:
                return ADDRESS.sub("...", line.text)
    if step.planned.log:
        return "something else"
    return ADDRESS.sub("...", step.faults[0].title) if step.faults else "silent"


def cases(side: KernelSide, deadly: bool = False) -> list[Broken]:
    """What breaks a rule that this kernel has, and can be tried.

    :param deadly: those that kill the kernel, or the others.
    """
    held = {rule.identifier for rule in RULES if rule.holds_for(side.version)}
    if side.kernel.vmlinux is None:  # it is there with the debug symbols
        held.discard(catalogue.INLINED.identifier)
    tried = [b for b in BREAKS if not b.not_tried and b.rule in held]
    return [broken for broken in tried if bool(broken.dies) is deadly]


def situations(built: Built, side: KernelSide, directory: Path) -> tuple[Group, ...]:
    """Good modules, or nearly so, where something else makes the difference."""
    good, name = built.module("meminfo"), "livepatch_meminfo"
    later = Group(
        "KLP606",
        (
            Insmod(good),
            WaitEnabled(name),
            Planned(Insmod(built.module("meminfo-2"))),
            WaitEnabled(f"{name}_2"),
            *clean_up(f"{name}_2"),
            *clean_up(name),
        ),
    )
    held = catalogue.KRETPROBES.message(side.version, {"symbol": "meminfo_proc_show"})
    switch = "/proc/sys/kernel/ftrace_enabled"
    off = Group(
        "KLP607",
        (
            WriteFile(switch, "0"),
            Planned(Insmod(good), fails=True, log=(held,)),
            Planned(WriteFile(switch, "1"), always=True),
        ),
    )
    return (later, off, unsigned(built, directory))


def unsigned(built: Built, directory: Path) -> Group:
    """A kernel that is told to want signatures, as one with CONFIG_MODULE_SIG_FORCE does."""
    config = directory / "config"
    config.write_text(built.kernel.config.read_text() + "\nCONFIG_MODULE_SIG_FORCE=y\n")
    side = KernelSide(replace(built.kernel, config=config), built.directory / "symbols.klp")
    path = built.module("meminfo")
    finding = predicted("KLP201", path.read_bytes(), path, side)
    force = WriteFile("/sys/module/module/parameters/sig_enforce", "1")
    return Group("KLP201", (force, Planned(Insmod(path), fails=True, log=(finding.says,))))


def judge(built: Built, directory: Path) -> None:
    symbols = built.directory / "symbols.klp"
    side = KernelSide(built.kernel, symbols)
    for name in SAMPLES:  # which tests/test_real_kernel.py loads
        path = built.module(name)
        assert check_bytes(path.read_bytes(), path.name, side).findings == (), name

    deaths: list[tuple[Broken, GroupResult]] = []
    together: list[Group] = []
    last: list[Group] = []
    for broken in cases(side):
        path = directory / f"{broken.rule}.ko"
        path.write_bytes(broken.change(built.module(broken.base).read_bytes()))
        file = built.module(broken.base)
        finding = predicted(broken.rule, path.read_bytes(), file, side)
        (last if broken.fresh else together).append(group_of(broken, finding, path))
    others = list(situations(built, side, directory))
    stays = [broken.rule for broken in BREAKS if broken.stays]
    others += [group for group in last if group.name in stays]
    others.sort(key=lambda group: group.name == "KLP201")  # then no unsigned module is taken
    last = [group for group in last if group.name not in stays]
    guest = Guest(built.kernel, built.directory / "boot" / "truth")
    results = [r for groups in (together, last, others) for r in guest.run(groups)]
    for broken in cases(side, deadly=True):
        path = directory / f"{broken.rule}.ko"
        path.write_bytes(broken.change(built.module(broken.base).read_bytes()))
        file = built.module(broken.base)
        finding = predicted(broken.rule, path.read_bytes(), file, side)
        assert finding.rule.severity is Severity.ERROR
        (killed,) = guest.boot([group_of(broken, finding, path)]).groups
        deaths.append((broken, killed))
    if os.environ.get("KLPBUILD_RECORD") == "1":
        record = json.loads(OBSERVED.read_text()) if OBSERVED.exists() else {}
        every = [*results, *(killed for _, killed in deaths)]
        record[built.kernel.release] = dict(sorted((r.group.name, observed(r)) for r in every))
        OBSERVED.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    problems = {r.group.name: r.problem for r in results if not r.passed}
    for broken, killed in deaths:
        said = [fault.title for fault in killed.faults]
        if killed.end not in (End.OOPS, End.PANIC) or broken.dies not in "\n".join(said):
            problems[broken.rule] = f"{killed.end}: {said}"
    assert problems == {}, problems


def test_predictions_come_true(
    debian_samples: Built, debian_debug_kernel: Kernel, tmp_path: Path
) -> None:
    # Without debug symbols nobody knows which functions have an ftrace entry (KLP511).
    judge(replace(debian_samples, kernel=debian_debug_kernel), tmp_path)


@pytest.mark.skipif(os.environ.get("KLPBUILD_TEST_NEWEST") == "0", reason="KLPBUILD_TEST_NEWEST=0")
def test_predictions_come_true_on_the_newest_kernel(
    newest_samples: Built, newest_source_kernel: Kernel, tmp_path: Path
) -> None:
    judge(replace(newest_samples, kernel=newest_source_kernel), tmp_path)
