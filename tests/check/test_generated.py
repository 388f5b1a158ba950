"""Modules whose tables are made at run time: what other tools leave in them is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.tables import read_tables
from klpbuild.elf.reader import ElfFile
from tests.check.breaks import SWAPINFO
from tests.check.kernels import AT_RUN_TIME, KLP_BUILD_CODE, KPATCH_CODE, make_from

CODE = {"kpatch-build": KPATCH_CODE, "klp-build": KLP_BUILD_CODE}


def made(directory: Path, code: str) -> bytes:
    symbols = {"klp_si_swapinfo": SWAPINFO}
    return make_from(directory, "meminfo", code, symbols, "vmlinux", AT_RUN_TIME)


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
