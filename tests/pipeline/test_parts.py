"""A livepatch made of parts of both kinds, loaded by a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Group, Insmod, Planned
from klpbuild.vm.trial import Wanted, boot_livepatch
from tests.docs.session import ROOT
from tests.pipeline.livepatches import build_all

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

TOML = """\
[[object]]
name = "vmlinux"
functions = [{{ old = "{file}_proc_show", new = "livepatch_{file}" }}]
callbacks = {{ pre_patch = "{file}_enters", post_unpatch = "{file}_leaves" }}
"""
#: A part that counts what parts before it did.
SOURCE = """\
#include <linux/livepatch.h>
#include <linux/seq_file.h>
#include "common.h"
int livepatch_{file}(struct seq_file *m, void *v)
{{
	seq_puts(m, "{file} of " TEXT "\\n");
	return 0;
}}
int {file}_enters(struct klp_object *object)
{{
	pr_info("{file} enters\\n");
	return {error};
}}
void {file}_leaves(struct klp_object *object)
{{
	pr_info("{file} leaves\\n");
}}
"""


def built(kernel: Kernel, directory: Path, error: str = "0") -> Path:
    """A module of two parts of C files, with patches between them; the last one may fail."""
    whole = directory / "all"
    for file, fails in (("cmdline", "0"), ("uptime", error)):
        (whole / file).mkdir(parents=True)
        (whole / file / "livepatch.toml").write_text(TOML.format(file=file))
        (whole / file / "main.c").write_text(SOURCE.format(file=file, error=fails))
    (whole / "common.h").write_text('#define TEXT "a part"\n')
    (whole / "fixes").mkdir()
    patch = ROOT / "tests/docs/cumulative/0002-loadavg.patch"
    (whole / "fixes" / patch.name).write_bytes(patch.read_bytes())
    (whole / "livepatch.toml").write_text('parts = ["cmdline", "fixes", "uptime"]\n')
    return build_all(kernel, directory, directory)


def test_both_kinds(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    module = built(debian_source_kernel, tmp_path)
    watch = ["/proc/cmdline", "/proc/uptime", "/proc/loadavg"]
    trial = boot_livepatch(debian_source_kernel, Wanted([module], watch=watch))
    assert trial.problems == ()
    cmdline, uptime, loadavg = trial.files
    assert (cmdline.patched, uptime.patched) == ("cmdline of a part\n", "uptime of a part\n")
    assert loadavg.patched is not None and loadavg.patched.split()[3] != loadavg.before
    log = [line.text for step in trial.result.steps for line in step.log]
    said = [text for text in log if text.endswith(("enters", "leaves"))]
    assert said == ["cmdline enters", "uptime enters", "uptime leaves", "cmdline leaves"]


def test_a_part_that_fails_undoes_those_before_it(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    module = built(debian_source_kernel, tmp_path, "-EBUSY")
    load = Planned(Insmod(module), fails=True, warns=True)
    (result,) = Guest(debian_source_kernel).run([Group("fails", (load,))])
    assert result.passed, result.problem
    (step,) = result.steps
    assert "Resource busy" in step.output or "busy" in step.output
    said = [x.text for x in step.log if x.text.endswith(("enters", "leaves"))]
    assert said == ["cmdline enters", "uptime enters", "cmdline leaves"]
