"""Launchers before the compiler, and compile_commands.json for editors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scons.checkout import Checkout
from tests.scons.livepatches import add_patch

pytestmark = pytest.mark.slow

TREE = "build/fixtures/kernel"
WORDS = ("livepatches=launched", "livepatch=banner")


@pytest.fixture
def launched(shared: Checkout) -> Iterator[Checkout]:
    """A livepatch of a patch, and an empty ccache."""
    if shutil.which("ccache", path=shared.environment["PATH"]) is None:
        pytest.skip("ccache is not on this machine")
    shared.environment["CCACHE_DIR"] = str(shared.directory / "ccache")
    old = "seq_puts(m, linux_banner);"
    directory = shared.directory / "launched"
    add_patch(directory / "banner", "fs/proc/version.c", old, f'seq_puts(m, "new ");\n\t{old}')
    yield shared
    del shared.environment["CCACHE_DIR"]
    shutil.rmtree(directory)


def build_anew(checkout: Checkout, *words: str) -> dict[str, int]:
    """Forget what was compiled, build, and say what ccache did."""
    build = checkout.directory / "build/fixtures"
    shutil.rmtree(build / "livepatch-banner", ignore_errors=True)
    trees = Path(checkout.environment["KLPBUILD_CACHE"]) / "trees"
    for kept in (*trees.glob("*/prepared/.klpbuild/objects"), *trees.glob("*/entry-sizes-*.o")):
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    _ccache(checkout, "--zero-stats")
    checkout.scons(*WORDS, *words)
    lines = _ccache(checkout, "--print-stats").splitlines()
    return {name: int(count) for name, count in map(str.split, lines)}


def _ccache(checkout: Checkout, option: str) -> str:
    return subprocess.run(
        ["ccache", option], env=checkout.environment, capture_output=True, text=True, check=True
    ).stdout


def test_ccache(launched: Checkout) -> None:
    """It sees our own sources, the kernel's before and after the patch, and the probe.

    Anew, klpbuild has three of them itself: tables, inputs, and what the patch changes.
    """
    module = launched.directory / "build/fixtures/livepatch-banner.ko"
    first = build_anew(launched, "launcher=ccache", "-j2")
    bytes_with = module.read_bytes()
    assert (first["cache_miss"], first["direct_cache_hit"]) == (6, 0)
    second = build_anew(launched, "launcher=ccache", "-j1")
    assert (second["cache_miss"], second["direct_cache_hit"]) == (0, 3)
    assert module.read_bytes() == bytes_with
    assert launched.scons(*WORDS) == "scons: `livepatch' is up to date.\n"
    without = build_anew(launched)
    assert (without["cache_miss"], without["direct_cache_hit"]) == (0, 0)
    assert module.read_bytes() == bytes_with


@pytest.mark.parametrize(
    ("launcher", "text"),
    [
        (
            "ccash",
            "scons: error: launcher 'ccash' is not known\n"
            "  Did you mean ccache?\n"
            "  Known: ccache, distcc, icecc, sccache.\n",
        ),
        (
            "nowhere/icecc",
            "scons: error: launcher 'nowhere/icecc' is not on this machine\n"
            "  Install the package icecc.\n",
        ),
    ],
)
def test_a_launcher_that_cannot_be_used(shared: Checkout, launcher: str, text: str) -> None:
    assert shared.scons(f"launcher={launcher}", f"kernel=fixtures,{TREE}", status=2) == text


def test_compile_commands(shared: Checkout) -> None:
    """Each command compiles its file, and all kernels are there."""
    words = (f"kernel=fixtures,{TREE}", "livepatch=meminfo,version")
    text = shared.scons("compile_commands", *words)
    assert "  GEN     build/compile_commands.json\n" in text
    assert "  CC  " not in text
    entries = json.loads((shared.directory / "build/compile_commands.json").read_text())
    livepatches = shared.directory / "kernel-fixtures/livepatches"
    meminfo, version = livepatches / "meminfo/meminfo.c", livepatches / "version/version.c"
    assert [entry["file"] for entry in entries] == [str(meminfo), str(version), str(meminfo)]
    for entry in entries[:2]:
        assert entry["arguments"][-2:] == ["-c", entry["file"]]
        done = subprocess.run(
            [*entry["arguments"], "-fsyntax-only"], cwd=entry["directory"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_a_patch_without_its_compiler_ends_before_the_symbols_are_read(shared: Checkout) -> None:
    kernel = shutil.copytree(shared.directory / TREE, shared.directory / "older", symlinks=True)
    with (kernel / ".config").open("a") as config:
        config.write('CONFIG_CC_VERSION_TEXT="gcc-99 (Debian 99.1.0-1) 99.1.0"\n')
    old = "seq_puts(m, linux_banner);"
    patch = shared.directory / "patches/banner"
    add_patch(patch, "fs/proc/version.c", old, f'seq_puts(m, "new ");\n\t{old}')
    text = shared.scons("kernel=older", "livepatches=patches", "livepatch=banner", status=2)
    assert "error: 6.1.0-fixtures-" in text
    assert ": the compiler that built this kernel is not on this machine\n" in text
    assert "  Install gcc-99, or name the compiler with CC=.\n" in text
    assert "SYMBOLS" not in text


def test_without_instructions_patches_alone_are_refused(shared: Checkout) -> None:
    """As on ppc64le, where `check` wants no instructions: what is written in C is linked."""
    both = shared.directory / "both"
    add_patch(both / "banner", "fs/proc/version.c", "seq_puts(", "seq_puts (")
    shutil.copytree(shared.directory / "kernel-fixtures/livepatches/meminfo", both / "meminfo")
    record = shared.directory / "klpbuild/arch/x86_64.py"
    known = record.read_text()
    try:
        record.write_text(known.replace("    instructions=X86Instructions(),\n", ""))
        text = shared.scons("-k", "kernel=fixtures", "livepatches=both", status=2)
    finally:
        record.write_text(known)
    assert re.search(r"^fixtures +banner +failed: [\w.-]+: is for x86_64$", text, re.MULTILINE)
    assert "  LD [M]  build/fixtures/livepatch-meminfo/" in text
    assert "  Source patches are built for x86-64, s390x and arm64 only.\n" in text
