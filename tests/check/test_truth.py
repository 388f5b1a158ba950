"""What is predicted, Debian's own kernel does: for each rule, one module, in one guest.

With KLPBUILD_RECORD=1 what was observed is written to observed.json, from which
docs/check.md is made.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect, Finding
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import GroupResult, StepResult
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    Step,
    WaitDisabled,
    WaitEnabled,
)
from tests.check.breaks import BREAKS
from tests.check.editor import Broken
from tests.test_real_kernel import SAMPLES, Built, build

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

OBSERVED = Path(__file__).with_name("observed.json")
CASES = tuple(broken for broken in BREAKS if not broken.not_tried)


def clean_up(name: str) -> tuple[Planned, ...]:
    steps = (Disable(name, if_loaded=True), WaitDisabled(name), Rmmod(name, if_loaded=True))
    return tuple(Planned(step, always=True) for step in steps)


def accepted(path: Path, name: str) -> tuple[Planned | Step, ...]:
    return (Insmod(path), *clean_up(name))


def refused_late(path: Path, name: str, says: str, again: bool) -> tuple[Planned | Step, ...]:
    log = (says,) if says else ()
    first: tuple[Planned | Step, ...] = (Insmod(path), WaitEnabled(name))
    if again:
        first += (Modprobe("button"), Rmmod("button"))
    steps = (Planned(Modprobe("button"), fails=True, log=log, warns=True),)
    return (*first, *steps, *clean_up(name), Planned(Rmmod("button", if_loaded=True), always=True))


def group_of(broken: Broken, finding: Finding, path: Path) -> Group:
    name = f"livepatch_{broken.base}"
    if finding.effect is Effect.LATE:
        again = broken.late == "button again"
        return Group(broken.rule, refused_late(path, name, finding.says, again))
    log = (finding.says,) if finding.says else ()
    if finding.effect is Effect.REFUSED:
        step = Planned(Insmod(path), fails=True, log=log, warns=True)
        return Group(broken.rule, (step, *clean_up(name)))
    step = Planned(Insmod(path), log=log)
    return Group(broken.rule, (step, *clean_up(name)))


def predicted(broken: Broken, data: bytes, side: KernelSide) -> Finding:
    findings = check_bytes(data, f"livepatch-{broken.base}.ko", side).findings
    found = [finding for finding in findings if finding.rule.identifier == broken.rule]
    assert found, f"{broken.rule} is not found"
    return found[0]


def observed(result: GroupResult) -> str:
    """In a few words, what the kernel did."""
    failed = [s for s in result.steps if s.planned.fails is True and s.exit_status]
    loads = [s for s in result.steps if isinstance(s.planned.step, Insmod | Modprobe)]
    if failed:
        late = isinstance(failed[0].planned.step, Modprobe)
        return f"{'refused late' if late else 'refused'}: {_said(failed[0])}"
    return f"loaded: {_said(loads[0])}"


#: What differs from boot to boot.
_ADDRESS = re.compile(r"(?<=loc )[0-9a-f]+|(?<=val )[0-9a-f]+")


def _said(step: StepResult) -> str:
    for text in step.planned.log:
        for line in step.log:
            if text in line.text:
                return _ADDRESS.sub("...", line.text)
    return "silent" if not step.planned.log else "something else"


@pytest.fixture(scope="module")
def built(debian_kernel: Kernel) -> Built:
    return build(debian_kernel)


@pytest.fixture(scope="module")
def side(built: Built) -> KernelSide:
    return KernelSide(built.kernel, built.directory / "symbols.klp")


def test_good_samples_pass(built: Built, side: KernelSide) -> None:
    """tests/test_real_kernel.py loads the same files."""
    for name in SAMPLES:
        path = built.module(name)
        assert check_bytes(path.read_bytes(), path.name, side).findings == (), name


def test_predictions_come_true(built: Built, side: KernelSide, tmp_path: Path) -> None:
    groups, fresh = [], []
    for broken in CASES:
        data = broken.change(built.module(broken.base).read_bytes())
        path = tmp_path / f"{broken.rule}.ko"
        path.write_bytes(data)
        group = group_of(broken, predicted(broken, data, side), path)
        (fresh if broken.fresh else groups).append(group)
    guest = Guest(built.kernel, built.directory / "boot" / "truth")
    results = [*guest.run(groups), *(r for group in fresh for r in guest.run([group]))]
    record = dict(sorted((result.group.name, observed(result)) for result in results))
    if os.environ.get("KLPBUILD_RECORD") == "1":
        text = json.dumps({"kernel": built.kernel.release, "observed": record}, indent=1)
        OBSERVED.write_text(text + "\n")
    problems = {r.group.name: r.problem for r in results if not r.passed}
    assert problems == {}
