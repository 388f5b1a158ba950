"""Livepatches for tests: written, compiled and linked as the build does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from klpbuild.compiler.driver import compile_source
from klpbuild.compiler.log import BuildLog
from klpbuild.kernel.tree import Kernel
from klpbuild.module.config import read_livepatch
from klpbuild.module.link import link_module
from klpbuild.module.tables import tables_source

CMDLINE = """\
#include <linux/seq_file.h>
extern char *saved_command_line;
int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s livepatch=1\\n", saved_command_line);
	return 0;
}
"""

CMDLINE_TOML = """\
description = "livepatch=1 in /proc/cmdline"
references = ["CVE-2024-1"]
[[object]]
name = "vmlinux"
functions = [{ old = "cmdline_proc_show", new = "livepatch_cmdline_proc_show" }]
"""


@dataclass(frozen=True)
class Built:
    """A linked livepatch and what was said on the way."""

    path: Path
    log: BuildLog
    warnings: tuple[str, ...]


def write_livepatch(directory: Path, toml: str, **sources: str) -> Path:
    """A livepatch's directory: ``a="..."`` writes ``a.c``."""
    directory.mkdir(parents=True)
    (directory / "livepatch.toml").write_text(toml)
    for name, text in sources.items():
        (directory / f"{name}.c").write_text(text)
    return directory


def link_livepatch(kernel: Kernel, directory: Path, output: Path) -> Built:
    """Compile a livepatch and its tables, and link them."""
    livepatch = read_livepatch(directory)
    log = BuildLog(output / "build.log")
    sources = list(livepatch.sources)
    if not livepatch.own_tables:
        tables = output / "tables.c"
        tables.parent.mkdir(parents=True, exist_ok=True)
        tables.write_text(tables_source(livepatch, kernel))
        sources.append(tables)
    objects = [
        compile_source(
            kernel,
            source,
            output / f"{source.stem}.o",
            module_name=livepatch.module_name,
            log=log,
        ).output
        for source in sources
    ]
    warnings: list[str] = []
    warn: Callable[[str], None] = warnings.append
    path = link_module(kernel, f"livepatch-{livepatch.name}", objects, output, log, warn=warn)
    return Built(path, log, tuple(warnings))
