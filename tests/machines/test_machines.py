"""Livepatches for other machines and other settings, on kernels that are built here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klpbuild.arch import PPC64LE, X86_64
from klpbuild.kernel.locate import locate
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Group, Insmod, Modprobe, Planned, Rmmod, Shell, WaitEnabled
from tests.corpus.samples import SAMPLES
from tests.machines.kernels import MACHINES, built
from tests.samples import Built, build
from tests.test_real_kernel import lacks, load, shows, unload

pytestmark = pytest.mark.machines

_LIVEPATCHES = Path(__file__).parent / "livepatches"
_PATCH = Path(__file__).parent / "patches" / "visible.patch"
_DEPTH = "/sys/module/loop/parameters/hw_queue_depth"


def _from_patch(module: Path) -> Group:
    """A patch of vmlinux and of a module that comes after it, twice."""
    loop = Planned(Shell("modprobe loop hw_queue_depth=64"))
    return Group(
        "from a patch",
        (lacks("/proc/cmdline", "patched=1"),
         Insmod(module), WaitEnabled("livepatch_visible"),
         shows("/proc/cmdline", " patched=1\n"),
         loop, shows(_DEPTH, "65"), Rmmod("loop"),
         loop, shows(_DEPTH, "65"), *unload("visible"), Rmmod("loop"),
         lacks("/proc/cmdline", "patched=1"),
         loop, shows(_DEPTH, "64"), Rmmod("loop")),
    )  # fmt: skip


def _groups(built: Built) -> list[Group]:
    loop = Planned(Shell("modprobe loop hw_queue_depth=64"))
    return [
        Group(
            "patch, unpatch, unload",
            (lacks("/proc/meminfo", "Livepatch:"), *load(built, "meminfo"),
             shows("/proc/meminfo", "Livepatch:       meminfo\n"),
             Planned(Rmmod("livepatch_meminfo"), fails=True),
             *unload("meminfo"), lacks("/proc/meminfo", "Livepatch:")),
        ),
        Group(
            "atomic replace",
            (*load(built, "meminfo"), *load(built, "meminfo-2"),
             shows("/proc/meminfo", "Livepatch:       meminfo-2\n"),
             Rmmod("livepatch_meminfo"), *unload("meminfo-2"),
             lacks("/proc/meminfo", "Livepatch:")),
        ),
        Group(
            "annotated",
            (*load(built, "cmdline"), shows("/proc/cmdline", " livepatch=1\n"),
             *unload("cmdline"), lacks("/proc/cmdline", "livepatch=1")),
        ),
        Group(
            "module loaded after the livepatch, twice",
            (Modprobe("loop"), lacks(_DEPTH, "65"), Rmmod("loop"),
             *load(built, "loop"), loop, shows(_DEPTH, "65"), Rmmod("loop"),
             loop, shows(_DEPTH, "65"), *unload("loop"), Rmmod("loop"),
             loop, shows(_DEPTH, "64"), Rmmod("loop")),
        ),
    ]  # fmt: skip


#: From a patch: a new function's own data, new functions that a new table points to, and a warning,
#: which the kernel finds in the bug table.
_SAMPLES = tuple(s for s in SAMPLES if s.name in ("new-function", "through-pointer", "warning"))

_CHOSEN = os.environ.get("KLPBUILD_MACHINES", "").replace(",", " ").split() or MACHINES


@pytest.mark.parametrize("name", _CHOSEN)
def test_livepatches_of_another_machine(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    if machine.missing:
        assert os.environ.get("KLPBUILD_REQUIRE_MACHINES") != "1", machine.missing
        pytest.skip(machine.missing)
    kernel = locate(str(built(name)))
    made = build(kernel, tmp_path, ("meminfo", "meminfo-2", "cmdline", "loop"), _LIVEPATCHES)
    groups = _groups(made)
    if kernel.arch not in (X86_64, PPC64LE):
        module, _ = build_from_patches(kernel, [_PATCH], "visible", tmp_path / "patch")
        groups.append(_from_patch(module))
    samples = _SAMPLES if kernel.arch != PPC64LE else ()
    for sample in samples:
        module, extracted = build_from_patches(kernel, [sample.patch], sample.name, tmp_path)
        changed = [f"{e.name}/{f.old}" for e in extracted.functions for f in e.functions]
        assert tuple(changed) == sample.functions
        groups.append(sample.group(module))
    results = Guest(kernel, tmp_path / "boot").run(groups)
    assert [(r.group.name, r.problem) for r in results if not r.passed] == []
    assert len(results) == len(groups)
    for sample, result in zip(samples, results[len(groups) - len(samples) :], strict=True):
        seen = [s.output for s in result.steps if s.planned.step == Shell(sample.look)]
        assert sample.right(*seen), (sample.name, seen)
