"""A livepatch with versions: a line in /proc/version, and a way to sleep in its code."""

from __future__ import annotations

from pathlib import Path

from klpbuild.arch import X86_64
from klpbuild.module.livepatch import Livepatch
from klpbuild.package.contents import Package

RELEASE = "6.1.0-47-cloud-amd64"

#: With `hold`, whoever reads the file sleeps in the livepatch: no transition ends then.
SOURCE = """// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static bool hold;
module_param(hold, bool, 0644);

int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, "Linux with livepatch demo VERSION\\n");
	while (READ_ONCE(hold))
		msleep(100);
	return 0;
}
"""

DESCRIPTION = """description = "a line of its own in /proc/version"
references = ["CVE-2024-1234", "CVE-2024-5678"]
version = "VERSION"

[[object]]
name = "vmlinux"
functions = [{ old = "version_proc_show", new = "livepatch_version_proc_show" }]
"""


def write_demo(directory: Path, version: str) -> None:
    """Write the livepatch ``demo`` below a directory of livepatches."""
    livepatch = directory / "demo"
    livepatch.mkdir(parents=True)
    (livepatch / "demo.c").write_text(SOURCE.replace("VERSION", version))
    (livepatch / "livepatch.toml").write_text(DESCRIPTION.replace("VERSION", version))


def demo_package(module: Path, **changes: object) -> Package:
    """A package of any file."""
    livepatch = Livepatch(
        "demo",
        (),
        description="a line of its own in /proc/version",
        references=("CVE-2024-1234", "CVE-2024-5678"),
        version="1.2",
    )
    fields: dict[str, object] = {
        "livepatch": livepatch,
        "release": RELEASE,
        "arch": X86_64,
        "kernel_version": "6.1.170-3",
        "module": module,
        "directory": f"/lib/modules/{RELEASE}/updates/livepatch",
        "documents": (),
        "maintainer": "Livepatch Team <livepatch@team.invalid>",
        "epoch": 1_700_000_000,
    }
    return Package(**{**fields, **changes})
