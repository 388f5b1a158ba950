"""The examples of the author's guide do in a booted kernel what the guide says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    Shell,
    Step,
    WaitDisabled,
    WaitEnabled,
)
from tests.docs.document import WrittenFile, read_document
from tests.docs.session import ROOT, make_checkout

EXAMPLES = ROOT / "docs" / "examples"
GUIDE = ROOT / "docs" / "authors-guide.md"
NAMES = ("callbacks", "data", "homonym", "module", "module-data", "shadow", "static-local")

LID = "cat /sys/module/button/parameters/lid_init_state"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def test_the_guide_shows_the_examples_as_they_are() -> None:
    shown = {
        item.path: item.text
        for block in read_document(GUIDE)
        for item in block.content
        if isinstance(item, WrittenFile) and item.path.startswith("docs/examples/")
    }
    assert shown == {path: (ROOT / path).read_text() for path in shown}
    assert {Path(path).parent.name for path in shown} == set(NAMES)
    assert sorted(path.name for path in EXAMPLES.iterdir()) == sorted(NAMES)


def groups(modules: Path) -> list[Group]:
    """Each example, loaded, looked at and unloaded; all in one boot."""

    def load(name: str) -> tuple[Step, ...]:
        module = modules / f"livepatch-{name}.ko"
        return Insmod(module), WaitEnabled(object_name(name))

    def unload(name: str) -> tuple[Planned, ...]:
        steps = (
            Disable(object_name(name)),
            WaitDisabled(object_name(name)),
            Rmmod(object_name(name)),
        )
        return tuple(Planned(step, always=True) for step in steps)

    def object_name(name: str) -> str:
        return f"livepatch_{name.replace('-', '_')}"

    def see(command: str, *output: str, log: tuple[str, ...] = ()) -> Planned:
        return Planned(Shell(command), output=output, log=log)

    return [
        Group(
            "callbacks",
            (
                *load("callbacks"),
                see("cat /proc/cmdline", " patched\n"),
                see("dmesg", "livepatch_callbacks: vmlinux: about to be patched\n"),
                *unload("callbacks"),
                see("! grep patched /proc/cmdline"),
                see("dmesg", "livepatch_callbacks: vmlinux: no longer patched\n"),
            ),
        ),
        Group(
            "data",
            (
                see("! grep -x 7 /proc/sys/kernel/panic"),
                *load("data"),
                see("cat /proc/sys/kernel/panic", "7\n"),
                *unload("data"),
                see("! grep -x 7 /proc/sys/kernel/panic"),
            ),
        ),
        Group(
            "homonym",
            (
                see("! grep 'does not sleep' /sys/power/state"),
                *load("homonym"),
                see("cat /sys/power/state", "this machine does not sleep\n"),
                *unload("homonym"),
            ),
        ),
        Group(
            "module",
            (
                *load("module"),
                Modprobe("button"),
                see(LID, "number 2\n"),
                *unload("module"),
                see(LID, "[method]"),
                Rmmod("button"),
            ),
        ),
        Group(
            "module-data",
            (
                *load("module-data"),
                Modprobe("button"),
                see(LID, "[ignore]"),
                *unload("module-data"),
                see(LID, "[method]"),
                Rmmod("button"),
            ),
        ),
        Group(
            "shadow",
            (
                *load("shadow"),
                see("cat /proc/cmdline", "readings: 1\n"),
                see("cat /proc/cmdline", "readings: 2\n"),
                *unload("shadow"),
                see("! grep readings /proc/cmdline"),
                *load("shadow"),
                see("cat /proc/cmdline", "readings: 1\n"),
                *unload("shadow"),
            ),
        ),
        Group(
            "static-local",
            (
                see(f"{BOOT_ID} | grep '[a-f]'"),
                *load("static-local"),
                see(f"{BOOT_ID} | grep '[A-F]'"),
                see(f"! {BOOT_ID} | grep '[a-f]'"),
                *unload("static-local"),
                see(f"{BOOT_ID} | grep '[a-f]'"),
            ),
        ),
        Group(
            "atomic replace",
            (
                *load("callbacks"),
                Shell("dmesg -c"),
                *load("shadow"),
                see("! grep patched /proc/cmdline"),
                see("cat /proc/cmdline", "readings: 2\n"),
                see("! dmesg | grep 'no longer patched'"),
                Rmmod("livepatch_callbacks"),
                *unload("shadow"),
            ),
        ),
    ]


@pytest.mark.kernel
@pytest.mark.boot
def test_what_the_examples_do(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    checkout = tmp_path / "klpbuild"
    make_checkout(checkout)
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "livepatches=docs/examples",
         f"kernel={debian_source_kernel.name}"],
        cwd=checkout, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    modules = checkout / "build" / debian_source_kernel.name
    results = Guest(debian_source_kernel, tmp_path / "boot").run(groups(modules))
    problems = {result.group.name: result.problem for result in results if not result.passed}
    assert problems == {}, [(s.title, s.output) for r in results if not r.passed for s in r.steps]
    assert len(results) == len(groups(modules))
