"""Modules whose tables are made at run time: what other tools leave in them is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.reach import Reach
from klpbuild.check.subject import Subject
from klpbuild.check.tables import read_tables
from klpbuild.elf.reader import ElfFile
from tests.check.breaks import LID, SWAPINFO
from tests.check.kernels import AT_RUN_TIME, KLP_BUILD_CODE, KPATCH_CODE, make_from

CODE = {"kpatch-build": KPATCH_CODE, "klp-build": KLP_BUILD_CODE}


def made(directory: Path, code: str, symbol: str = SWAPINFO, gate: str = "vmlinux") -> bytes:
    return make_from(directory, "meminfo", code, {"klp_si_swapinfo": symbol}, gate, AT_RUN_TIME)


@pytest.mark.parametrize("tool", CODE)
def test_what_they_patch_is_read(tmp_path: Path, tool: str) -> None:
    objects = read_tables(ElfFile(made(tmp_path, CODE[tool]), "livepatch.ko"))
    assert objects is not None
    found = [
        (patched.object, function.old, function.new, function.sympos)
        for patched in objects
        for function in patched.functions or ()
    ]
    new = "livepatch_meminfo_proc_show"
    assert found == [("vmlinux", "meminfo_proc_show", new, 2), ("button", "power", new, 0)]
    assert [patched.callbacks for patched in objects] == [set(), {"post_unpatch"}]


@pytest.mark.parametrize("tool", CODE)
def test_and_checked(miniature: KernelSide, tmp_path: Path, tool: str) -> None:
    report = check_bytes(made(tmp_path, CODE[tool]), "livepatch.ko", miniature)
    assert [(f.rule.identifier, f.what) for f in report.findings] == [
        ("KLP508", "there is no power in button"),
        ("KLP510", "there are 1 meminfo_proc_show in vmlinux, and old_sympos is 2"),
    ]


@pytest.mark.parametrize("tool", CODE)
def test_what_runs_with_which_object_is_traced(
    miniature: KernelSide, tmp_path: Path, tool: str
) -> None:
    """One function replaces one of vmlinux and one of button, and waits for button."""
    data = made(tmp_path, CODE[tool], LID, "button")
    report = check_bytes(data, "livepatch.ko", miniature)
    (early,) = [f for f in report.findings if f.rule is catalogue.EARLY_CODE]
    assert early.what == "livepatch_meminfo_proc_show runs with vmlinux, and waits for button"
    elf = ElfFile(data, "livepatch.ko")
    objects = read_tables(elf)
    assert objects is not None
    reach, function = Reach(Subject(elf, "livepatch.ko", None), objects), objects[0].functions
    assert function is not None and function[0].new_place is not None
    assert reach.users(*function[0].new_place).keys() == {"vmlinux", "button"}
