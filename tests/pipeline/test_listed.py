"""Fixes in SUSE's layout, loaded by a real kernel: their own functions, and what these undo."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Group, Insmod, Planned
from klpbuild.vm.trial import Wanted, boot_livepatch
from tests.pipeline.livepatches import build_all

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

SYSCALLS = "#include <linux/syscalls.h>\n#define KLP_SYSCALL_SYM(name) __x64_sys_ ## name\n"
HEADER = """\
#include "klp_syscalls.h"
int livepatch_{name}_init(void);
void livepatch_{name}_cleanup(void);
asmlinkage long KLP_SYSCALL_SYM(klpp_{call})(const struct pt_regs *regs);
"""
SOURCE = """\
/* Fix for CVE-2024-2001 */
#include <linux/kernel.h>
#include "livepatch_{name}.h"
asmlinkage long KLP_SYSCALL_SYM(klpp_{call})(const struct pt_regs *regs)
{{
	return -EPERM;
}}
int livepatch_{name}_init(void)
{{
	pr_info("{name} enters\\n");
	return {error};
}}
void livepatch_{name}_cleanup(void)
{{
	pr_info("{name} leaves\\n");
}}
"""


def built(kernel: Kernel, directory: Path, error: str) -> Path:
    """A module of two fixes; the second one may not want to begin."""
    whole = directory / "all"
    whole.mkdir()
    (whole / "klp_syscalls.h").write_text(SYSCALLS)
    (whole / "livepatch.toml").write_text('parts = ["bsc1", "bsc2"]\n')
    for name, call, fails in (("bsc1", "sethostname", "0"), ("bsc2", "setdomainname", error)):
        fix = whole / name
        fix.mkdir()
        texts = {"name": name, "call": call, "error": fails}
        (fix / f"livepatch_{name}.h").write_text(HEADER.format(**texts))
        (fix / f"livepatch_{name}.c").write_text(SOURCE.format(**texts))
        (fix / "patched_funcs.csv").write_text(
            f"vmlinux KLP_SYSCALL_SYM({call}) KLP_SYSCALL_SYM(klpp_{call})"
            " defined(KLP_SYSCALL_SYM)\n"
        )
    return build_all(kernel, directory, directory)


def test_fixes_begin_and_end(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    trial = boot_livepatch(
        debian_source_kernel, Wanted([built(debian_source_kernel, tmp_path, "0")])
    )
    assert trial.problems == ()
    assert trial.redirected == {"vmlinux": ("__x64_sys_setdomainname", "__x64_sys_sethostname")}
    log = [line.text for step in trial.result.steps for line in step.log]
    said = [text for text in log if text.startswith("bsc")]
    assert said == ["bsc1 enters", "bsc2 enters", "bsc2 leaves", "bsc1 leaves"]


def test_a_fix_that_cannot_begin(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    module = built(debian_source_kernel, tmp_path, "-EBUSY")
    steps = (Planned(Insmod(module), fails=True, warns=True),)
    (result,) = Guest(debian_source_kernel).run([Group("fails", steps)])
    assert result.passed, result.problem
    said = [line.text for line in result.steps[0].log if line.text.startswith("bsc")]
    assert said == ["bsc1 enters", "bsc2 enters", "bsc1 leaves"]
