"""Patches for a Debian kernel: what is compiled here is what Debian ships."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

import pytest

from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.prepare import prepare
from klpbuild.kernel.tree import Kernel
from klpbuild.patch import commands
from klpbuild.patch.pair import CompiledPatch, compile_patch
from klpbuild.proof.fidelity import Proof, prove
from klpbuild.proof.shipped import shipped_file

pytestmark = pytest.mark.kernel


def quiet(line: str) -> None:
    """A log that nobody reads."""


def compiled(kernel: Kernel, tmp_path: Path, path: str, old: str, new: str) -> CompiledPatch:
    assert kernel.source is not None
    text = (kernel.source / path).read_text()
    assert old in text
    lines = difflib.unified_diff(
        text.splitlines(keepends=True),
        text.replace(old, new, 1).splitlines(keepends=True),
        f"a/{path}",
        f"b/{path}",
    )
    patch = tmp_path / "fix.patch"
    patch.write_text("".join(lines))
    return compile_patch(kernel, [patch], tmp_path / "work", quiet)


def test_the_configuration_is_debian_s(debian_source_kernel: Kernel) -> None:
    tree = prepare(debian_source_kernel, quiet)
    assert tree.differences == ()
    ours, theirs = tree.build, debian_source_kernel.build
    for name in ("autoconf.h", "asm-offsets.h", "bounds.h", "utsrelease.h", "compile.h"):
        header = f"include/generated/{name}"
        assert (ours / header).read_bytes() == (theirs / header).read_bytes()


@pytest.mark.parametrize(
    ("path", "old", "new", "owner"),
    [
        ("fs/proc/meminfo.c", "MemTotal:       ", "MemTotal:  \\t    ", "vmlinux"),
        ("fs/btrfs/ctree.c", "BUG_ON(", "WARN_ON(", "btrfs"),
        ("net/sctp/sm_statefuns.c", "SCTP_DISPOSITION_NOMEM", "SCTP_DISPOSITION_CONSUME", "sctp"),
    ],
)
def test_every_function_of_the_file_is_the_shipped_one(
    debian_source_kernel: Kernel, tmp_path: Path, path: str, old: str, new: str, owner: str
) -> None:
    result = compiled(debian_source_kernel, tmp_path, path, old, new)
    assert [(pair.owner, pair.source) for pair in result.pairs] == [(owner, path)]
    fidelity = prove(debian_source_kernel, result, result.pairs[0], quiet)
    assert fidelity.differences == ()
    assert len(fidelity.proven) >= 3


def test_of_many_symbols_of_a_name_the_one_of_the_file_is_found(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    """The linker's own note tells: local symbols stand behind the name of their file."""
    path = "kernel/fork.c"
    result = compiled(debian_source_kernel, tmp_path, path, "ERR_PTR(-EINVAL)", "ERR_PTR(-EPERM)")
    fidelity = prove(debian_source_kernel, result, result.pairs[0], quiet)
    shipped = ElfFile.read(shipped_file(debian_source_kernel, "vmlinux"))
    names = Counter(symbol.name for symbol in shipped.symbol_list if symbol.is_local)
    files = [s for s in shipped.symbol_list if s.type == STT.FILE]
    own = {s.name for s in ElfFile.read(result.pairs[0].plain).symbol_list if s.is_function}
    shared = [fidelity.located[name] for name in own if names[name] > 1]
    assert shared
    for located in shared:
        assert located.proof is Proof.SECTION
        assert located.index is not None
        before = [file.name for file in files if file.index < located.index]
        assert before[-1] == "fork.c"


def test_the_short_way_to_ask_kbuild_gives_the_same(
    debian_source_kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = prepare(debian_source_kernel, quiet)
    targets = ["drivers/net/wireguard/send.o", "kernel/bpf/relo_core.o", "lib/vsprintf.o"]
    short = commands.compile_commands(tree, tmp_path / "short", targets, quiet)
    monkeypatch.setattr(commands, "_MAKEFILE", "scripts/none")
    assert commands.compile_commands(tree, tmp_path / "long", targets, quiet) == short
    assert list(short) == targets
