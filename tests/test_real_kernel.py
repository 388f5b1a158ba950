"""The samples, built by scons for stock Debian kernels and judged by these in QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
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

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

ROOT = Path(__file__).parent.parent
SAMPLES = ("meminfo", "meminfo-2", "cmdline", "homonym", "homonyms", "button")
LID = "/sys/module/button/parameters/lid_init_state"


@dataclass(frozen=True)
class Built:
    """A kernel and the samples built for it."""

    kernel: Kernel
    directory: Path

    def module(self, name: str) -> Path:
        return self.directory / f"livepatch-{name}.ko"

    def load(self, name: str) -> tuple[Step, ...]:
        return (Insmod(self.module(name)), WaitEnabled(f"livepatch_{name.replace('-', '_')}"))


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


def build(kernel: Kernel, directory: Path) -> Built:
    """Build in a checkout of its own: two runs of SCons must not share one."""
    for name in ("klpbuild", "kernel-fixtures", "site_scons"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    shutil.copy(ROOT / "SConstruct", directory)
    command = [sys.executable, "-m", "SCons", "-Q", f"kernel={kernel.name}"]
    done = subprocess.run(
        [*command, f"livepatch={','.join(SAMPLES)}"],
        cwd=directory,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(kernel, directory / "build" / kernel.name)


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
            (lacks("/proc/meminfo", "Livepatch:"), *built.load("meminfo"),
             shows("/proc/meminfo", "Livepatch:       meminfo\n"),
             shows("/proc/meminfo", "CommitLimit:"),
             shows("/sys/kernel/livepatch/livepatch_meminfo/enabled", "1"),
             Planned(Rmmod("livepatch_meminfo"), fails=True),
             *unload("meminfo"), lacks("/proc/meminfo", "Livepatch:")),
        ),
        Group(
            "annotated",
            (*built.load("cmdline"), shows("/proc/cmdline", " livepatch=1\n"),
             *unload("cmdline"), lacks("/proc/cmdline", "livepatch=1")),
        ),
        Group(
            "the right one of two",
            (*built.load("homonym"), shows("/proc/cmdline", " homonym=atkbd.reset\n"),
             *unload("homonym")),
        ),
        Group(
            "both of two",
            (*built.load("homonyms"), shows("/proc/cmdline", "homonyms=i8042.reset,atkbd.reset\n"),
             *unload("homonyms")),
        ),
        Group(
            "module loaded after the livepatch",
            (*built.load("button"), Modprobe("button"), shows(LID, "livepatch: default"),
             *unload("button"), lacks(LID, "livepatch"), Rmmod("button")),
        ),
        Group(
            "module loaded before the livepatch",
            (Modprobe("button"), lacks(LID, "livepatch"), *built.load("button"),
             shows(LID, "livepatch: default"), *unload("button"), lacks(LID, "livepatch"),
             Rmmod("button")),
        ),
        Group(
            "module loaded, unloaded and loaded again under the livepatch",
            (*built.load("button"),
             Modprobe("button"), shows(LID, "livepatch: default"), Rmmod("button"),
             Modprobe("button"), shows(LID, "livepatch: default"), Rmmod("button"),
             Modprobe("button"), shows(LID, "livepatch: default"),
             *unload("button"), Rmmod("button")),
        ),
        Group(
            "atomic replace",
            (*built.load("meminfo"), *built.load("meminfo-2"),
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


def test_the_samples_on_debians_kernel(debian_kernel: Kernel, tmp_path: Path) -> None:
    judge(build(debian_kernel, tmp_path))


@pytest.mark.skipif(os.environ.get("KLPBUILD_TEST_NEWEST") == "0", reason="KLPBUILD_TEST_NEWEST=0")
def test_the_samples_on_the_newest_kernel(newest_kernel: Kernel, tmp_path: Path) -> None:
    judge(build(newest_kernel, tmp_path))
