"""A patch for the newest kernel, where objtool reads the linked module."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.from_patch import build_from_patches
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Shell
from tests.corpus.samples import Sample

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

SOURCE = "kernel/signal.c"
CHANGES = {
    "struct kernel_siginfo *info, pid_t pid)\n{\n\tint ret;\n": """
	if (pid == 98764)
		return -EXDEV;
""",
    "SYSCALL_DEFINE2(kill, pid_t, pid, int, sig)\n{\n\tstruct kernel_siginfo info;\n": """
	if (pid == 98765)
		do_group_exit(7 << 8);
""",
}


def test_a_function_that_does_not_return_and_one_without_landing_place(
    newest_source_kernel: Kernel, tmp_path: Path
) -> None:
    """objtool must know do_group_exit(), which is not exported, by its name.

    kill_something_info() has no endbr64: its file never takes its address.
    """
    assert newest_source_kernel.source is not None
    old = new = (newest_source_kernel.source / SOURCE).read_text()
    for start, added in CHANGES.items():
        assert start in new
        new = new.replace(start, start + added)
    patch = tmp_path / "kill.patch"
    former, later = (text.splitlines(keepends=True) for text in (old, new))
    lines = difflib.unified_diff(former, later, f"a/{SOURCE}", f"b/{SOURCE}")
    patch.write_text("".join(lines))
    module, extracted = build_from_patches(newest_source_kernel, [patch], "kill", tmp_path)
    names = {f.old for patched in extracted.functions for f in patched.functions}
    assert names == {"kill_something_info", "__x64_sys_kill", "__ia32_sys_kill"}
    look = "(kill -0 98765); echo status $?; (kill -0 98764) 2>&1; true"
    sample = Sample("kill", (), look, lambda *seen: True)
    (result,) = Guest(newest_source_kernel).run([sample.group(module)])
    assert result.passed, result.problem
    before, patched, after = (
        s.output for s in result.steps if s.planned.step == Shell(sample.look)
    )
    assert "status 7\n" in patched
    assert "Invalid cross-device link" in patched
    assert before == after
    assert "status 1\n" in before
