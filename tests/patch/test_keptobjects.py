"""Patched objects that were compiled before are taken, and never one of other files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.patch.effect import patch_effects
from klpbuild.patch.pair import CompiledPatch, compile_patch
from tests.patch.small_kernel import SmallKernel, make_kernel

pytestmark = pytest.mark.slow

LIMIT = ("fs/open.c", "number > LIMIT", "number > 9")


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return make_kernel(tmp_path / "kernel")


class Builds:
    """Builds of one kernel, one after another, each in a directory of its own."""

    def __init__(self, small: SmallKernel, directory: Path) -> None:
        self.small, self.directory, self.number = small, directory, 0
        self.compiled: list[str] = []

    def build(self, *patches: str) -> CompiledPatch:
        self.number += 1
        directory = self.directory / str(self.number)
        directory.mkdir()
        paths = []
        for number, text in enumerate(patches):
            paths.append(directory / f"{number}.patch")
            paths[-1].write_text(text)
        self.paths = paths
        log: list[str] = []
        made = compile_patch(self.small.kernel, paths, directory / "work", log.append)
        lines = [line.split() for line in log if ".patched.o" in line]
        self.compiled = [words[-1].rpartition("/")[2] for words in lines]
        return made


@pytest.fixture
def builds(small: SmallKernel, tmp_path: Path) -> Builds:
    return Builds(small, tmp_path)


def test_the_same_patch_again(small: SmallKernel, builds: Builds) -> None:
    (first,) = builds.build(small.patch(*LIMIT)).pairs
    assert builds.compiled == ["open.c"]
    (second,) = builds.build(small.patch(*LIMIT)).pairs
    assert builds.compiled == []
    assert second.patched.read_bytes() == first.patched.read_bytes()
    assert second.files == first.files == {"fs/open.c"}


def test_one_patch_more(small: SmallKernel, builds: Builds) -> None:
    builds.build(small.patch(*LIMIT))
    other = small.patch("kernel/warn.c", "line > LIMIT", "line > 8")
    assert len(builds.build(small.patch(*LIMIT), other).pairs) == 2
    assert builds.compiled == ["warn.c"]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("include/linux/kernel.h", "LIMIT 3", "LIMIT 4"),
        ("include/linux/kernel.h", "return 2 * a", "return 3 * a"),
        ("fs/open.c", "return count++", "return ++count"),
    ],
)
def test_another_change_of_what_it_is_made_from(
    small: SmallKernel, builds: Builds, path: str, old: str, new: str
) -> None:
    builds.build(small.patch(*LIMIT))
    if path == "fs/open.c":
        builds.build(small.patch(path, old, new))
    else:
        builds.build(small.patch(*LIMIT), small.patch(path, old, new))
    assert "open.c" in builds.compiled


def test_a_new_file_that_is_found_in_place_of_another(small: SmallKernel, builds: Builds) -> None:
    """fs/part.h would be read where a directory that comes later has the file."""
    text = (small.source / "fs/read.c").read_text()
    changed = small.patch("fs/read.c", "READ + number", "READ + 2 * number")
    builds.build(changed)
    added = "--- /dev/null\n+++ b/fs/sub/new.h\n@@ -0,0 +1 @@\n+#define NEW 5\n"
    builds.build(changed, added)
    assert "read.c" in builds.compiled
    assert text == (small.source / "fs/read.c").read_text()


def test_an_object_that_stays_the_same(small: SmallKernel, builds: Builds) -> None:
    same = small.patch("fs/read.c", "READ + number", "number + READ")
    assert builds.build(small.patch(*LIMIT), same).unchanged == ("fs/read.o",)
    made = builds.build(small.patch(*LIMIT), same)
    assert (made.unchanged, builds.compiled) == (("fs/read.o",), [])
    effects = patch_effects(made, builds.paths, {"fs/open.o": ["f"]}, lambda pair: None, "x86")
    assert effects["1.patch"].idle is not None
    header = small.patch("fs/read.h", "READ 7", "READ 6")
    assert "fs/read.o" in [pair.target for pair in builds.build(same, header).pairs]


def test_two_patches_of_one_object_of_which_one_alone_changes_nothing(
    small: SmallKernel, builds: Builds
) -> None:
    """The object that is known to be the original is no object that does not compile."""
    nothing = small.patch("fs/open.c", "static int count;", "static int count; /* of files */")
    builds.build(nothing, small.patch("kernel/warn.c", "line > LIMIT", "line > 8"))
    made = builds.build(nothing, small.patch(*LIMIT))
    effects = patch_effects(
        made, builds.paths, {"fs/open.o": ["f"]}, lambda pair: frozenset({"f"}), "x86"
    )
    assert effects["0.patch"].idle is not None
    assert effects["1.patch"].functions == ("vmlinux:f",)


def test_a_damaged_object_is_compiled_again(small: SmallKernel, builds: Builds) -> None:
    (first,) = builds.build(small.patch(*LIMIT)).pairs
    kept = first.patched.read_bytes()
    for path in builds.small.kernel.cache.rglob("patched/**/*.o"):
        path.write_bytes(kept[:-8] + b"damaged!")
    (second,) = builds.build(small.patch(*LIMIT)).pairs
    assert (builds.compiled, second.patched.read_bytes()) == (["open.c"], kept)


def asked(made: CompiledPatch, asks: list[bool]) -> list[bytes]:
    """Answers of the original and the patched file, each with how often it was asked."""
    (pair,) = made.pairs

    def answer(patched: bool) -> bytes:
        def ask(dependencies: Path) -> bytes:
            asks.append(patched)
            made.compiler.with_types(pair.command, patched, f"-Wp,-MD,{dependencies}")
            return b"patched" if patched else b"original"

        return made.compiler.answer(pair.command, "kind", ("-g",), patched, ask)

    return [answer(False), answer(True)]


def test_what_the_compiler_tells_is_kept(small: SmallKernel, builds: Builds) -> None:
    asks: list[bool] = []
    for _ in range(2):
        made = builds.build(small.patch(*LIMIT))
        assert asked(made, asks) == [b"original", b"patched"]
    assert asks == [False, True]
    header = small.patch("include/linux/kernel.h", "return 2 * a", "return 3 * a")
    made = builds.build(small.patch(*LIMIT), header)
    (pair,) = (pair for pair in made.pairs if pair.source == "fs/open.c")
    asked(replace(made, pairs=(pair,)), asks)
    assert asks == [False, True, True]


def test_what_the_compiler_told_may_be_damaged(small: SmallKernel, builds: Builds) -> None:
    asks: list[bool] = []
    asked(builds.build(small.patch(*LIMIT)), asks)
    for path in builds.small.kernel.cache.rglob("open.kind-*"):
        path.write_bytes(b"damaged")
    assert asked(builds.build(small.patch(*LIMIT)), asks) == [b"original", b"patched"]
    assert asks == [False, True, False]


def test_types_are_kept(small: SmallKernel, builds: Builds) -> None:
    (pair,) = (made := builds.build(small.patch(*LIMIT))).pairs
    read = [made.compiler.types(pair.command, patched) for patched in (False, True)]
    made = builds.build(small.patch(*LIMIT))
    assert [made.compiler.types(pair.command, p) for p in (False, True)] == read
    assert read[0].functions["open_file"] == ("4 bytes", "4 bytes")
    assert not list((made.compiler.workdir / "fs").glob("*-types.o"))
