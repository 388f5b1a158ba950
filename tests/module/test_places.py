"""Errors about a linked module name the lines of the C files that they mean."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.module.places import SourcePlaces

FIRST = """\
void nowhere(int);
int before(int n)
{
	return n + 1;
}
void first(void)
{
	nowhere(1);
}
"""
SECOND = """\
extern int known(void) asm("\\".klp.sym.rela.ext4.jbd2.known,0\\"");
static void nothing(void) { }
void (*const table[])(void) = { nothing };
int second(int n)
{
	if (n)
		return 3;
	return known() + 1;
}
"""


@pytest.fixture
def places(tmp_path: Path) -> SourcePlaces:
    sources = []
    for name, text in (("first", FIRST), ("second", SECOND)):
        source, made = tmp_path / f"{name}.c", tmp_path / f"{name}.o"
        source.write_text(text)
        words = ["gcc", "-g", "-O1", "-fno-pic", "-mcmodel=kernel", "-c", source, "-o", made]
        subprocess.run(words, check=True)
        sources.append((source, made))
    linked = tmp_path / "x.ko"
    objects = [made for _, made in sources]
    subprocess.run(["ld", "-r", "-S", *objects, "-o", linked], check=True)
    return SourcePlaces(ElfFile.read(linked), sources, "addr2line", "converted.ko")


def named(places: SourcePlaces, place: str, module: str = "") -> str:
    where = f"{module or places.linked.name}:{place}"
    error = KlpError("is wrong", where=where, why="Why.", hint="Do.")
    places.name(error)
    directory = places.sources[0][0].parent
    return str(error).replace(f"{directory}/", "")


def used_at(places: SourcePlaces, symbol: str) -> str:
    elf = places.linked
    for section in elf.relocation_sections:
        for row in elf.relocations(section).tolist():
            if elf.symbol_name(row[2]) == symbol:
                return f"{elf.sections[section.sh_info].name}+{row[0]:#x}"
    raise AssertionError(symbol)


def test_a_place_in_the_code(places: SourcePlaces) -> None:
    place = used_at(places, "nowhere")
    assert named(places, place) == "first.c:8:first: is wrong\n  Why.\n  Do."


def test_a_place_in_the_converted_module(places: SourcePlaces) -> None:
    place = f"{used_at(places, 'nowhere')}:nowhere"
    assert named(places, place, "converted.ko") == "first.c:8:first: is wrong\n  Why.\n  Do."


def test_a_place_in_code_that_the_linker_moved(places: SourcePlaces) -> None:
    place = used_at(places, ".klp.sym.rela.ext4.jbd2.known,0")
    assert named(places, place) == "second.c:8:second: is wrong\n  Why.\n  Do."


def test_an_annotated_symbol(places: SourcePlaces) -> None:
    place = "KLP_RELOC_SYMBOL(ext4, jbd2, known)"
    assert named(places, place) == "second.c:8:second: is wrong\n  Why.\n  Do."


def test_a_place_in_a_variable(places: SourcePlaces) -> None:
    assert named(places, ".rodata+0x0") == "second.c:3:table: is wrong\n  Why.\n  Do."


@pytest.mark.parametrize(
    "place", [".text+0xffff", ".gone+0x1", "KLP_RELOC_SYMBOL(ext4, jbd2, gone)", "other"]
)
def test_a_place_that_no_file_has_stays(places: SourcePlaces, place: str) -> None:
    assert named(places, place) == f"x.ko:{place}: is wrong\n  Why.\n  Do."


def test_without_the_program_the_function_is_named(places: SourcePlaces) -> None:
    without = SourcePlaces(places.linked, places.sources, "no-such-addr2line")
    place = used_at(places, "nowhere")
    assert named(without, place) == "first.c:first: is wrong\n  Why.\n  Do."


def test_errors_about_other_files_stay(places: SourcePlaces) -> None:
    error = KlpError("is wrong", where="livepatch.toml:1")
    places.name(error)
    assert str(error) == "livepatch.toml:1: is wrong"
