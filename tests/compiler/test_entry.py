"""Which functions of an object ftrace can redirect."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.compiler.entry import check_new_functions, entry_offsets
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from tests.objects import compile_c, functions_with_entry

SOURCE = """
#define notrace __attribute__((no_instrument_function))
int traced(int i) { return i + 1; }
notrace int quiet(int i) { return i + 2; }
static __attribute__((noinline)) int inside(int i) { return i * 3; }
__attribute__((section(".init.text"))) int early(int i) { return inside(i); }
int calls(int i) { return inside(i) + traced(i); }
"""
ENTRY = ["-pg", "-mfentry"]
ARM64_GCC = "aarch64-linux-gnu-gcc-12"


@pytest.mark.parametrize(
    ("flags", "offset"),
    [
        ([*ENTRY], 0),
        ([*ENTRY, "-mrecord-mcount"], 0),
        ([*ENTRY, "-mrecord-mcount", "-fcf-protection=branch"], 4),
        # as with CALL_PADDING: the padding stands before the symbol
        ([*ENTRY, "-fcf-protection=branch", "-fpatchable-function-entry=16,16"], 4),
        ([*ENTRY, "-mrecord-mcount", "-mnop-mcount"], 0),
        ([*ENTRY, "-mrecord-mcount", "-ffunction-sections"], 0),
    ],
)
def test_entry_calls_are_found(tmp_path: Path, flags: list[str], offset: int) -> None:
    elf = ElfFile.read(compile_c(tmp_path, SOURCE, *flags))
    assert functions_with_entry(elf) == {"traced", "inside", "early", "calls"}
    # GCC gives an endbr64 to a static function only if its address is taken.
    places = {elf.symbol_name(index): place for index, place in entry_offsets(elf).items()}
    assert {places[name] for name in ("traced", "early", "calls")} == {offset}


def test_padding_alone_is_no_entry(tmp_path: Path) -> None:
    elf = ElfFile.read(compile_c(tmp_path, SOURCE, "-fpatchable-function-entry=16,16"))
    assert functions_with_entry(elf) == frozenset()


def test_call_further_in_is_no_entry(tmp_path: Path) -> None:
    # A call of __fentry__ that is not at the beginning redirects nothing.
    source = "void __fentry__(void); int g; void f(void) { g = 1; __fentry__(); g = 2; }"
    assert functions_with_entry(ElfFile.read(compile_c(tmp_path, source))) == frozenset()


@pytest.mark.skipif(not shutil.which(ARM64_GCC), reason=f"{ARM64_GCC} is not installed")
@pytest.mark.parametrize(
    ("flags", "offset"),
    [
        (["-fpatchable-function-entry=2"], 0),
        (["-fpatchable-function-entry=2", "-mbranch-protection=bti"], 4),
        (["-fpatchable-function-entry=4,2"], -8),
        (["-fpatchable-function-entry=4,2", "-mbranch-protection=bti"], -8),
        (["-fpatchable-function-entry=2", "-ffunction-sections"], 0),
    ],
)
def test_entries_of_arm64(tmp_path: Path, flags: list[str], offset: int) -> None:
    quiet = "__attribute__((patchable_function_entry(0, 0)))"
    source = SOURCE.replace("__attribute__((no_instrument_function))", quiet)
    (tmp_path / "a.c").write_text(source)
    command = [ARM64_GCC, "-O2", "-fno-pic", *flags, "-c", "a.c", "-o", "a.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    elf = ElfFile.read(tmp_path / "a.o")
    assert functions_with_entry(elf) == {"traced", "inside", "early", "calls"}
    places = {elf.symbol_name(index): place for index, place in entry_offsets(elf).items()}
    assert {places[name] for name in ("traced", "early", "calls")} == {offset}


def _problems(elf: ElfFile, *names: str, callbacks: tuple[str, ...] = ()) -> str:
    problems = Problems()
    asked = [(name, f"livepatch.toml:{line}") for line, name in enumerate(names, 1)]
    check_new_functions(
        [elf], asked, problems, callbacks=[(name, "livepatch.toml:9") for name in callbacks]
    )
    try:
        problems.check()
    except KlpError as error:
        return str(error)
    return ""


def test_new_functions_that_can_be_used(tmp_path: Path) -> None:
    elf = ElfFile.read(compile_c(tmp_path, SOURCE, *ENTRY))
    assert _problems(elf, "traced", "calls", callbacks=("quiet", "traced")) == ""


def test_every_bad_new_function_is_told(tmp_path: Path) -> None:
    elf = ElfFile.read(compile_c(tmp_path, SOURCE, *ENTRY))
    path = tmp_path / "livepatch.o"
    assert _problems(elf, "quiet", "inside", "early", "trased", "other") == (
        f"""\
{path}:quiet: new function 'quiet' has no ftrace entry call
  A function that replaces another one must be traceable like it.
  Take notrace or noinstr away, and compile with the kernel's flags.
{path}:inside: new function 'inside' is static
  The generated tables, a file of their own, refer to it (livepatch.toml:2).
  Take the word static away.
{path}:early: new function 'early' is in .init.text
  The kernel frees this section when the livepatch is loaded, or drops it.
  Take __init or __exit away.
livepatch.toml:4: new function 'trased' is not defined by the livepatch's sources
  Did you mean traced?
livepatch.toml:5: new function 'other' is not defined by the livepatch's sources
  Define it, without static."""
    )


def test_callbacks_must_be_there_too(tmp_path: Path) -> None:
    elf = ElfFile.read(compile_c(tmp_path, SOURCE, *ENTRY))
    text = _problems(elf, callbacks=("inside", "missing"))
    assert "callback 'inside' is static" in text
    assert "callback 'missing' is not defined" in text


def test_static_function_is_named_when_its_clone_is_there(tmp_path: Path) -> None:
    source = """
static __attribute__((noinline)) int f(int *p) { return *p; }
int g(int *p) { return f(p); }
"""
    elf = ElfFile.read(compile_c(tmp_path, source, *ENTRY))
    clones = [s.name for s in elf.symbol_list if s.name.startswith("f.")]
    assert clones  # GCC 12 passes *p instead of p
    assert f"Did you mean {clones[0]}?" in _problems(elf, "f")
