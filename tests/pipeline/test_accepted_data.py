"""Data that a patch changes and its author accepts: written, and restored."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.module.accepted import Accepted
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.transcript import transcript
from klpbuild.vm.trial import Trial, Wanted, boot_livepatch

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

#: By file: what is replaced.
VALUES = {
    "kernel/sysctl.c": {"int cap_last_cap = CAP_LAST_CAP;": "int cap_last_cap = CAP_LAST_CAP + 7;"},
    "net/ipv4/tcp_vegas.c": {"int alpha = 2;": "int alpha = 9;"},
}
POINTER = {
    "fs/proc/devices.c": {
        "static void *devinfo_start(": "static int devinfo_brief(struct seq_file *f, void *v)\n"
        '{\n\tseq_puts(f, "patched\\n");\n\treturn devinfo_show(f, v);\n}\n\n'
        "static void *devinfo_start(",
        ".show  = devinfo_show": ".show  = devinfo_brief",
    }
}


def tried(
    kernel: Kernel,
    directory: Path,
    changes: dict[str, dict[str, str]],
    data: tuple[str, ...],
    watch: list[str],
    modules: tuple[str, ...] = (),
) -> Trial:
    source = kernel.source
    assert source is not None
    text = ""
    for path, pairs in changes.items():
        old = new = (source / path).read_text()
        for former, latter in pairs.items():
            assert new.count(former) == 1
            new = new.replace(former, latter)
        before, after = (t.splitlines(keepends=True) for t in (old, new))
        text += "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
    patch = directory / "fix.patch"
    patch.write_text(text)
    module, _ = build_from_patches(kernel, [patch], "fix", directory, Accepted(data=data))
    return boot_livepatch(kernel, Wanted([module], watch=watch, modprobe=modules))


def test_values_of_vmlinux_and_a_module(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    watch = ["/proc/sys/kernel/cap_last_cap", "/sys/module/tcp_vegas/parameters/alpha"]
    names = ("cap_last_cap", "alpha")
    trial = tried(debian_source_kernel, tmp_path, VALUES, names, watch, ("tcp_vegas",))
    assert trial.problems == ()
    caps, alpha = trial.files
    assert (caps.before, caps.patched, caps.after) == ("40\n", "47\n", "40\n")  # read only
    assert (alpha.before, alpha.patched, alpha.after) == ("2\n", "9\n", "2\n")


def test_a_pointer_to_a_new_function(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    watch = ["/proc/devices"]
    trial = tried(debian_source_kernel, tmp_path, POINTER, ("devinfo_ops",), watch)
    assert trial.problems == ()
    (devices,) = trial.files
    assert (devices.patched or "").startswith("patched\nCharacter devices:\n")
    assert devices.before == devices.after
    unload = next(s for s in trial.result.steps if s.planned.step.title.startswith("rmmod"))
    assert "Resource temporarily unavailable" in unload.output  # its code may be in use
    assert [*transcript(trial)][-2:] == [
        "livepatch_fix: loaded, patched and disabled.",
        "livepatch_fix stays loaded: pointers to it may be in use.",
    ]
