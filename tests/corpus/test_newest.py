"""Patches for the newest kernels: objtool reads the linked module, other compilers built them."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.extract.landing import no_landing
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Shell
from tests.corpus.samples import SAMPLES, Sample

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

SOURCE = "kernel/signal.c"
MEMINFO = "fs/proc/meminfo.c"
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


def patched(kernel: Kernel, tmp_path: Path, changes: dict[str, str], source: str = SOURCE) -> Path:
    """A patch that adds lines behind others."""
    old = new = (source_tree(kernel) / source).read_text()
    for start, added in changes.items():
        assert start in new
        new = new.replace(start, start + added)
    former, later = (text.splitlines(keepends=True) for text in (old, new))
    patch = tmp_path / "kill.patch"
    lines = difflib.unified_diff(former, later, f"a/{source}", f"b/{source}")
    patch.write_text("".join(lines))
    return patch


def test_an_address_that_nothing_in_the_kernel_takes(
    newest_source_kernel: Kernel, tmp_path: Path
) -> None:
    call = "\n\tif (pid == 98765) {\n\t\tvoid (*volatile leave)(int) = do_group_exit;\n"
    call += "\t\tleave(0);\n\t}\n"
    patch = patched(newest_source_kernel, tmp_path, {list(CHANGES)[1]: call})
    with pytest.raises(KlpError) as caught:
        build_from_patches(newest_source_kernel, [patch], "kill", tmp_path)
    assert str(caught.value) == str(no_landing("do_group_exit", "kernel/signal.c:kernel/signal.o"))


def test_a_function_that_does_not_return_and_one_without_landing_place(
    newest_source_kernel: Kernel, tmp_path: Path
) -> None:
    """objtool must know do_group_exit(), which is not exported, by its name.

    kill_something_info() has no endbr64: its file never takes its address.
    """
    patch = patched(newest_source_kernel, tmp_path, CHANGES)
    module, extracted = build_from_patches(newest_source_kernel, [patch], "kill", tmp_path)
    names = {f.old for entry in extracted.functions for f in entry.functions}
    assert names == {"kill_something_info", "__x64_sys_kill", "__ia32_sys_kill"}
    look = "(kill -0 98765); echo status $?; (kill -0 98764) 2>&1; true"
    sample = Sample("kill", (), look, lambda *seen: True)
    (result,) = Guest(newest_source_kernel).run([sample.group(module)])
    assert result.passed, result.problem
    before, with_it, after = (
        s.output for s in result.steps if s.planned.step == Shell(sample.look)
    )
    assert "status 7\n" in with_it
    assert "Invalid cross-device link" in with_it
    assert before == after
    assert "status 1\n" in before


def test_a_kernel_of_another_suite(suite_kernel: Kernel, tmp_path: Path) -> None:
    """The compiler and kbuild's programs come from that suite, too."""
    start = "static int meminfo_proc_show(struct seq_file *m, void *v)\n{\n"
    added = '\tstatic unsigned long reads;\n\n\tseq_printf(m, "Reads: %lu\\n", ++reads);\n'
    patch = patched(suite_kernel, tmp_path, {start: added}, MEMINFO)
    module, extracted = build_from_patches(suite_kernel, [patch], "meminfo", tmp_path)
    assert [f.old for e in extracted.functions for f in e.functions] == ["meminfo_proc_show"]
    meminfo = Sample("meminfo", (), "head -n 1 /proc/meminfo", _counts_reads)
    # Since 6.15 per-CPU variables lie among memory that is freed.
    (per_cpu,) = (sample for sample in SAMPLES if sample.name == "per-cpu")
    second, _ = build_from_patches(suite_kernel, [per_cpu.patch], per_cpu.name, tmp_path)
    groups = [meminfo.group(module), per_cpu.group(second)]
    results = Guest(suite_kernel).run(groups)
    for sample, result in zip((meminfo, per_cpu), results, strict=True):
        assert result.passed, result.problem
        seen = [s.output for s in result.steps if s.planned.step == Shell(sample.look)]
        assert sample.right(*seen), (sample.name, seen)


def _counts_reads(before: str, patched: str, after: str) -> bool:
    return patched.startswith("Reads: ") and before[:9] == after[:9] == "MemTotal:"
