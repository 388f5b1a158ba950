"""Modules that a livepatch patches, loaded before and after it by a real kernel."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.redirected import targets_of
from klpbuild.vm.trial import Wanted, boot_livepatch

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

#: The first needs a Hyper-V to run on.
CHANGES = {
    "drivers/hv/hv_fcopy.c": ("Could not read into recv buf", "Could not read into buf"),
    "fs/proc/loadavg.c": ("%u/%d %d", "%u/%d/%d"),
    "net/ipv4/tcp_vegas.c": ("vegas->baseRTT = 0x7fffffff", "vegas->baseRTT = 0x7ffffffe"),
}


def test_before_and_after(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    kernel, text = debian_source_kernel, ""
    assert kernel.source is not None
    for path, (former, latter) in CHANGES.items():
        old = (kernel.source / path).read_text()
        lines = [t.splitlines(keepends=True) for t in (old, old.replace(former, latter))]
        text += "".join(difflib.unified_diff(lines[0], lines[1], f"a/{path}", f"b/{path}"))
    patch = tmp_path / "fix.patch"
    patch.write_text(text)
    module, _ = build_from_patches(kernel, [patch], "fix", tmp_path)
    targets = targets_of(kernel, [module], ())
    assert targets == ["hv_utils", "tcp_vegas"]
    trial = boot_livepatch(kernel, Wanted([module], targets=targets))
    assert trial.problems == ()
    assert trial.redirected == {
        "vmlinux": ("loadavg_proc_show",),
        "tcp_vegas": ("tcp_vegas_cwnd_event", "tcp_vegas_init"),
    }
    late = [line.text for step in trial.result.steps for line in step.log]
    assert "livepatch: applying patch 'livepatch_fix' to loading module 'tcp_vegas'" in late
    before, after, functions, watched = trial.not_tried
    assert before.startswith("to load hv_utils before the livepatch: ")
    assert before.endswith("No such device") and after.endswith("No such device")
    assert functions.endswith("of hv_utils, which was not loaded")
    assert watched == "what the new functions do, since no file is watched"
