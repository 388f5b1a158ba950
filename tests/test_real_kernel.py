"""The samples, built by scons for stock Debian kernels and judged by these in QEMU."""

from __future__ import annotations

import os

import pytest

from klpbuild.vm.guest import Guest
from klpbuild.vm.result import GroupResult
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    ReadFile,
    Rmmod,
    Shell,
    Step,
    WaitDisabled,
    WaitEnabled,
)
from tests.samples import Built

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

LID = "/sys/module/button/parameters/lid_init_state"


def load(built: Built, name: str) -> tuple[Step, ...]:
    return (Insmod(built.module(name)), WaitEnabled(f"livepatch_{name.replace('-', '_')}"))


def unload(name: str) -> tuple[Planned, ...]:
    module = f"livepatch_{name.replace('-', '_')}"
    steps = (
        Disable(module, if_loaded=True), WaitDisabled(module), Rmmod(module, if_loaded=True)
    )  # fmt: skip
    return tuple(Planned(step, always=True) for step in steps)


def shows(path: str, text: str) -> Planned:
    return Planned(ReadFile(path), output=(text,))


def lacks(path: str, text: str) -> Planned:
    return Planned(Shell(f"! grep -F '{text}' {path}"))


def groups(built: Built) -> list[Group]:
    """What is tried, all in one boot."""
    linked = built.directory / "livepatch-meminfo" / "linked" / "livepatch-meminfo.ko"
    return [
        Group(
            "unconverted",
            (Planned(Insmod(linked), fails=True,
                     log=("livepatch_meminfo: Unknown symbol si_swapinfo (err -2)",)),),
        ),
        Group(
            "meminfo",
            (lacks("/proc/meminfo", "Livepatch:"), *load(built, "meminfo"),
             shows("/proc/meminfo", "Livepatch:       meminfo\n"),
             shows("/proc/meminfo", "CommitLimit:"),
             shows("/sys/kernel/livepatch/livepatch_meminfo/enabled", "1"),
             Planned(Rmmod("livepatch_meminfo"), fails=True),
             *unload("meminfo"), lacks("/proc/meminfo", "Livepatch:")),
        ),
        Group(
            "annotated",
            (*load(built, "cmdline"), shows("/proc/cmdline", " livepatch=1\n"),
             *unload("cmdline"), lacks("/proc/cmdline", "livepatch=1")),
        ),
        Group(
            "the right one of two",
            (*load(built, "homonym"), shows("/proc/cmdline", " homonym=atkbd.reset\n"),
             *unload("homonym")),
        ),
        Group(
            "both of two",
            (*load(built, "homonyms"), shows("/proc/cmdline", "homonyms=i8042.reset,atkbd.reset\n"),
             *unload("homonyms")),
        ),
        Group(
            "module loaded after the livepatch",
            (*load(built, "button"), Modprobe("button"), shows(LID, "livepatch: default"),
             *unload("button"), lacks(LID, "livepatch"), Rmmod("button")),
        ),
        Group(
            "module loaded before the livepatch",
            (Modprobe("button"), lacks(LID, "livepatch"), *load(built, "button"),
             shows(LID, "livepatch: default"), *unload("button"), lacks(LID, "livepatch"),
             Rmmod("button")),
        ),
        Group(
            "module loaded, unloaded and loaded again under the livepatch",
            (*load(built, "button"),
             Modprobe("button"), shows(LID, "livepatch: default"), Rmmod("button"),
             Modprobe("button"), shows(LID, "livepatch: default"), Rmmod("button"),
             Modprobe("button"), shows(LID, "livepatch: default"),
             *unload("button"), Rmmod("button")),
        ),
        Group(
            "atomic replace",
            (*load(built, "meminfo"), *load(built, "meminfo-2"),
             shows("/proc/meminfo", "Livepatch:       meminfo-2\n"),
             Planned(Shell("! test -e /sys/kernel/livepatch/livepatch_meminfo")),
             Rmmod("livepatch_meminfo"), *unload("meminfo-2"),
             lacks("/proc/meminfo", "Livepatch:")),
        ),
    ]  # fmt: skip


def judge(built: Built) -> None:
    results = Guest(built.kernel, built.directory / "boot").run(groups(built))
    problems = {result.group.name: result.problem for result in results if not result.passed}
    assert problems == {}, _logs(results)
    assert len(results) == len(groups(built))


def _logs(results: tuple[GroupResult, ...]) -> str:
    lines = [
        f"{result.group.name}: {step.title}: {step.output} {[line.text for line in step.log]}"
        for result in results
        if not result.passed
        for step in result.steps
    ]
    return "\n".join(lines)


def test_the_samples_on_debians_kernel(debian_samples: Built) -> None:
    judge(debian_samples)


@pytest.mark.skipif(os.environ.get("KLPBUILD_TEST_NEWEST") == "0", reason="KLPBUILD_TEST_NEWEST=0")
def test_the_samples_on_the_newest_kernel(newest_samples: Built) -> None:
    judge(newest_samples)
