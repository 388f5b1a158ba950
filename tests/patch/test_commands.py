"""The compiler's command line, with a shadow tree in the place of the source tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.patch.commands import CompileCommand


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A source tree, and a shadow where the header is another."""
    for name, value in (("source", 1), ("shadow", 2)):
        include = tmp_path / name / "include" / "linux"
        include.mkdir(parents=True)
        include.joinpath("value.h").write_text(f"{value} __FILE__\n")
        (tmp_path / name / "x.c").write_text("#include <linux/value.h>\n__FILE__\n")
    return tmp_path / "source", tmp_path / "shadow"


def preprocessed(command: CompileCommand, trees: tuple[Path, Path], shadow: bool) -> str:
    source, moved = trees
    line = command.compile(Path("-"), "-E", "-P", source=source, shadow=moved if shadow else None)
    done = subprocess.run(line, cwd=source.parent, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def test_variables_in_sections_of_their_own(tmp_path: Path) -> None:
    """gcc of arm64 would count from a common place; clang knows no such option."""
    for first, said in (("gcc",), True), (("clang-19", "--target=aarch64-linux-gnu"), False):
        arguments = (*first, "-I/s/arch/arm64/include")
        line = CompileCommand("x.o", "x.c", arguments, ()).compile(
            tmp_path, "-fdata-sections", source=tmp_path, shadow=None
        )
        assert ("-fno-section-anchors" in line) == said


@pytest.mark.parametrize("include", ["-I{}/include", "-I {}/include", "-isystem {}/include"])
def test_headers_are_the_shadow_s_under_the_names_of_the_source_tree(
    trees: tuple[Path, Path], include: str
) -> None:
    source = trees[0]
    flags = include.format(source).split()
    arguments = ("gcc", *flags, f"-fmacro-prefix-map={source}/=")
    command = CompileCommand("x.o", f"{source}/x.c", arguments, ())
    assert preprocessed(command, trees, False) == '1 "include/linux/value.h" "x.c"'
    assert preprocessed(command, trees, True) == '2 "include/linux/value.h" "x.c"'


def test_a_name_that_only_begins_like_the_source_tree_s_stays(trees: tuple[Path, Path]) -> None:
    source, shadow = trees
    arguments = ("gcc", f"-I{source}-other", f"-DX=a{source}")
    command = CompileCommand("x.o", f"{source}/x.c", arguments, ())
    line = command.compile(Path("x.o"), source=source, shadow=shadow)
    assert line[1:3] == list(arguments[1:])
