"""Ask a real kernel whether it does with a module what a report says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect, Report
from klpbuild.vm.guest import Guest
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
)
from tests.samples import Built

Steps = tuple[Planned | Step, ...]


def clean_up(name: str) -> tuple[Planned, ...]:
    steps = (Disable(name, if_loaded=True), WaitDisabled(name), Rmmod(name, if_loaded=True))
    return tuple(Planned(step, always=True) for step in steps)


def as_predicted(name: str, path: Path, base: str, report: Report) -> Group:
    """Steps that pass when the kernel does what a report says, in its words.

    :param base: ``meminfo`` or ``button``: what the module patches.
    """
    module = f"livepatch_{base}"
    if report.refused is not None:
        words = (report.refused.says,) if report.refused.says else ()
        step = Planned(Insmod(path), fails=True, log=words, warns=True)
        return Group(name, (step, *clean_up(module)))
    loaded = Planned(Insmod(path), warns=bool(report.findings))
    if base != "button":
        return Group(name, (loaded, ReadFile("/proc/meminfo"), *clean_up(module)))
    late = [f.says for f in report.findings if f.effect is Effect.LATE][:1]
    button = Planned(Modprobe("button"), fails=bool(late), log=tuple(late), warns=bool(late))
    gone = Planned(Rmmod("button", if_loaded=True), always=True)
    return Group(name, (loaded, button, *clean_up(module), gone))


def disagreements(built: Built, modules: Mapping[str, tuple[str, bytes]], directory: Path) -> str:
    """Check modules, load them in a guest, and tell where both differ; empty when nowhere.

    :param modules: name to the sample that each was made from, and its bytes.
    """
    side = KernelSide(built.kernel, built.directory / "symbols.klp")
    groups = []
    for name, (base, data) in modules.items():
        path = directory / f"{name}.ko"
        path.write_bytes(data)
        report = check_bytes(data, f"livepatch-{base}.ko", side)
        assert report.would_load is not None, (name, report.findings)
        groups.append(as_predicted(name, path, base, report))
    results = Guest(built.kernel, directory).run(groups)
    return "\n".join(f"{r.group.name}: {r.problem}" for r in results if not r.passed)
