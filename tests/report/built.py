"""Facts of a build that did not take place: the module is real, its making is told."""

from __future__ import annotations

import json
from pathlib import Path

from klpbuild.check.kernelside import KernelSide
from klpbuild.module.livepatch import Livepatch
from klpbuild.report.facts import Facts, read_fates
from klpbuild.report.inputs import read_inputs

PATCH = """\
From 1234567890abcdef1234567890abcdef12345678 Mon Sep 17 00:00:00 2001
From: An Author <author@example.org>
Date: Fri, 1 Mar 2024 10:00:00 +0100
Subject: [PATCH 6.1 1/2] =?UTF-8?q?mm=3A=20say=20that=20it=20is=20=C3=A9asy?=

commit abcdefabcdefabcdefabcdefabcdefabcdefabcd upstream.

It was not: see CVE-2024-1234.

Fixes: 1da177e4c3f4 ("Linux-2.6.12-rc2")
---
 fs/proc/meminfo.c | 2 +-

diff --git a/fs/proc/meminfo.c b/fs/proc/meminfo.c
--- a/fs/proc/meminfo.c
+++ b/fs/proc/meminfo.c
@@ -1,1 +1,1 @@
-old
+new
"""


def make_facts(
    side: KernelSide,
    module: bytes,
    directory: Path,
    *,
    patch: str = PATCH,
    epoch: int | None = None,
    fates: str = "",
) -> Facts:
    """Facts of a module.

    :param fates: the symbol of a fate that is added.
    """
    path = directory / "livepatch-meminfo.ko"
    path.write_bytes(module)
    file = directory / "fix.patch"
    file.write_text(patch)
    rows: list[dict[str, object]] = [
        {"symbol": "si_meminfo", "fate": "exported", "why": "exported by vmlinux", "gate": "",
         "owner": "", "sympos": None, "relocations": 0},
        {"symbol": "si_swapinfo", "fate": "livepatch", "why": "only one in vmlinux",
         "gate": "vmlinux", "owner": "vmlinux", "sympos": 0, "relocations": 1},
    ]  # fmt: skip
    if fates:
        rows.append(rows[0] | {"symbol": fates})
    relocations = directory / "relocations.json"
    relocations.write_text(json.dumps(rows))
    livepatch = Livepatch("meminfo", (), references=("an outage",))
    symbols = side.kernel.build / "symbols.klp"
    return Facts(
        kernel=side.kernel,
        symbols=symbols,
        compiler="gcc (Debian 12.2.0-14) 12.2.0",
        livepatch=livepatch,
        inputs=read_inputs(side.kernel, directory, patches=[file]),
        patches=(file,),
        module=path,
        fates=read_fates(relocations),
        used_symbols={"vmlinux": "00ff"},
        epoch=epoch,
        reasons={"livepatch_meminfo_proc_show": "code at +0x1 differs"},
    )
