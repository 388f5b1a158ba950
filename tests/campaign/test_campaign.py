"""Mutants are made anew from a seed, check reads them all, and the kernel agrees about some."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.log import parse
from klpbuild.vm.result import End, GroupResult, Status, StepResult
from klpbuild.vm.scenario import Planned
from tests.campaign.campaign import Campaign
from tests.campaign.exercise import Observed, Try, group_of, judge
from tests.campaign.matrix import Outcome, Predicted, disagreements, line, matrix
from tests.campaign.mutate import KINDS, Good, mutants
from tests.check.editor import Editor
from tests.check.kernels import make_kernel, make_livepatch
from tests.samples import build

GOOD = "keys 0 1\nwarns\n"
WARNED = (
    "<4>[    1.0] WARNING: CPU: 0 PID: 9 at exercise.c:12 show+0x1/0x2: the exercise warns\n"
    "<4>[    1.0] ---[ end trace 0000000000000000 ]---\n"
)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> KernelSide:
    return make_kernel(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("livepatches")
    return {name: make_livepatch(directory, name) for name in ("tables", "button")}


def test_the_same_seed_makes_the_same_mutants(good: dict[str, bytes]) -> None:
    first, again, other = (list(mutants(good, 40, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({mutant.data for mutant in first} | set(good.values())) == 42


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_check_reads_every_mutant(
    miniature: KernelSide, good: dict[str, bytes], kind: object
) -> None:
    """Whatever is changed, there is a report."""
    assert callable(kind)
    module, rng = Good("tables", good["tables"]), random.Random(7)
    for _ in range(6):
        made = kind(module, rng)
        assert made.what
        assert check_bytes(made.data, "livepatch.ko", miniature).summary


def result(status: int | None, output: str, log: str = "", end: End | None = None) -> GroupResult:
    """What a guest says of a module."""
    group = group_of(1, Path("1.ko"), "exercise")
    how = Status.LOST if status is None else Status.PASSED
    step = StepResult(Planned(Try(Path("1.ko"), "exercise")), how, status, output)
    step = StepResult(step.planned, how, status, output, parse(log.encode()))
    return GroupResult(group, (step,), end)


OTHER = "<4>[    1.0] WARNING: CPU: 0 PID: 9 at alternative.c:8 apply_returns+0x1/0x2\n"
TWICE = "<4>[    1.0] sysfs: cannot create duplicate filename '/module/x/sections/.text'\n"


@pytest.mark.parametrize(
    ("seen", "observed"),
    [
        (result(0, GOOD, WARNED), Observed.WELL),
        (result(0, GOOD), Observed.WRONG),
        (result(0, GOOD.replace("1", "0"), WARNED), Observed.WRONG),
        (result(0, GOOD, WARNED + OTHER), Observed.WARNED),
        (result(0, GOOD, WARNED + TWICE), Observed.WARNED),
        (result(10, "insmod: Invalid argument"), Observed.REFUSED),
        (result(20, "insmod: Invalid argument"), Observed.LATE),
        (result(32, ""), Observed.STUCK),
        (result(35, ""), Observed.STAYS),
        (result(77, ""), Observed.NOT_TRIED),
        (result(None, "", end=End.PANIC), Observed.DIED),
        (result(0, GOOD, WARNED, End.UNCLEAN), Observed.WELL),
    ],
)
def test_what_a_guest_shows(seen: GroupResult, observed: Observed) -> None:
    assert judge(seen, GOOD).observed is observed


def outcome(predicted: Predicted, observed: Observed, *warnings: str) -> Outcome:
    return Outcome(3, "exercise", "kind", "what", predicted, (), warnings, observed, "said")


def test_both_wrong_sides_are_told() -> None:
    wrong = [
        outcome(Predicted.LOADS, Observed.DIED),
        outcome(Predicted.REFUSED, Observed.WELL),
    ]
    right = [
        outcome(Predicted.LOADS, Observed.WELL),
        outcome(Predicted.REFUSED, Observed.REFUSED),
        outcome(Predicted.UNFORESEEN, Observed.DIED),
        outcome(Predicted.LOADS, Observed.STAYS, "KLP117"),
    ]
    assert len(list(disagreements([*wrong, *right]))) == 2
    text = "\n".join(matrix([*wrong, *right]))
    assert "| would load | 1 | 0 | 1 | 1 |" in text


@pytest.mark.kernel
@pytest.mark.boot
def test_check_and_the_kernel_agree_about_mutants(debian_kernel: Kernel, tmp_path: Path) -> None:
    """Sixty of them; `python -m tests.campaign` judges as many as are asked for."""
    built = build(debian_kernel, tmp_path / "samples", ("exercise", "button"))
    modules = {name: built.module(name) for name in ("exercise", "button")}
    campaign = Campaign(built.kernel, built.directory / "symbols.klp", modules, tmp_path / "guest")
    outcomes = campaign.run(60, seed=60)
    assert len(outcomes) == 60
    assert [line(o) for o in outcomes if o.passed_wrongly and not o.meaning] == []


@pytest.mark.kernel
def test_unwind_data_behind_code_that_the_kernel_replaces(
    debian_kernel: Kernel, tmp_path: Path
) -> None:
    """`pushf; pop` may stand there: an entry for the one that comes behind the other's stays."""
    data = build(debian_kernel, tmp_path, ("exercise",)).module("exercise").read_bytes()
    elf, side = ElfFile(data, "exercise.ko"), KernelSide(debian_kernel, None)
    masked = next(s for s in elf.symbol_list if s.name == "masked")
    section = elf.section(".rela.orc_unwind_ip")
    assert section is not None
    rows = elf.relocations(section)
    ends = [elf.symbol(int(row["r_sym"])).st_value + int(row["r_addend"]) for row in rows]
    pushed = [
        number
        for number, (end, after) in enumerate(pairwise(ends))
        if masked.st_value + 8 < end < masked.st_value + masked.st_size and after == end + 1
    ]
    assert pushed
    for number in pushed:
        made = Editor(data)
        made.change_row(".rela.orc_unwind_ip", number, r_addend=int(rows[number]["r_addend"]) + 2)
        findings = check_bytes(made.object.to_bytes(), "livepatch.ko", side).findings
        assert "KLP428" in {finding.rule.identifier for finding in findings}, hex(ends[number])
