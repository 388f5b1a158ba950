"""Which of several patches change nothing, with a small kernel that gcc builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.patch.effect import patch_effects
from klpbuild.patch.pair import CompiledPatch, ObjectPair, compile_patch
from tests.patch.small_kernel import SmallKernel, make_kernel

LIMIT = ("fs/open.c", "number > LIMIT", "number > 9")
COMMENT = ("fs/open.c", "static int count;", "static int count; /* of files */")
NOT_BUILT = ("drivers/not_built.c", "nothing", "something")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    return make_kernel(tmp_path_factory.mktemp("kernel"))


class Series:
    """Patches that are made one after another."""

    def __init__(self, small: SmallKernel, directory: Path) -> None:
        self.small, self.directory, self.patches = small, directory, list[Path]()
        self.asked: list[str] = []

    def add(self, text: str) -> None:
        self.patches.append(self.directory / f"{len(self.patches)}.patch")
        self.patches[-1].write_text(text)

    def changes(self, pair: ObjectPair) -> frozenset[str] | None:
        """Stands for an extraction, which looks at functions only."""
        self.asked.append(pair.target)
        names = [{s.name for s in ElfFile.read(p).symbol_list if s.is_function}
                 for p in (pair.original, pair.patched)]  # fmt: skip
        same = names[0] == names[1] and pair.original.read_bytes() == pair.patched.read_bytes()
        return None if same else frozenset(names[1])

    def idle(self, *, unused: str = "") -> dict[str, str]:
        compiled = self.compiled()
        used = {pair.target: ["a"] for pair in compiled.pairs if pair.target != unused}
        found = patch_effects(compiled, self.patches, used, self.changes, "x86")
        idle = {name: each.idle for name, each in found.items() if each.idle is not None}
        assert all(each.sure for each in idle.values())
        return {name: each.why for name, each in idle.items()}

    def compiled(self) -> CompiledPatch:
        work = self.directory / "work"
        return compile_patch(self.small.kernel, self.patches, work, lambda line: None)


@pytest.fixture
def series(small: SmallKernel, tmp_path: Path) -> Series:
    return Series(small, tmp_path)


def test_each_patch_for_an_object_of_its_own(small: SmallKernel, series: Series) -> None:
    series.add(small.patch(*LIMIT))
    series.add(small.patch("kernel/warn.c", "line > LIMIT", "line > 8"))
    assert series.idle() == {}
    assert not series.asked


def test_reasons(small: SmallKernel, series: Series) -> None:
    series.add(small.patch(*LIMIT))
    series.add(small.patch(*NOT_BUILT))
    series.add(small.patch("fs/read.c", "READ + number", "number + READ"))
    series.add("--- a/Documentation/x.rst\n+++ b/Documentation/x.rst\n@@ -1 +1 @@\n-x\n+y\n")
    series.add(small.patch("kernel/warn.c", "line > LIMIT", "line > 8"))
    assert series.idle(unused="kernel/warn.o") == {
        "1.patch": "no object is made from drivers/not_built.c",
        "2.patch": "the compiler makes the same of fs/read.o",
        "3.patch": "it changes no code",
        "4.patch": "no function that runs changes in kernel/warn.o",
    }
    assert not series.asked


@pytest.mark.parametrize("first", [True, False])
def test_two_patches_for_one_object(small: SmallKernel, series: Series, first: bool) -> None:
    """One of them changes a comment only."""
    patches = [small.patch(*LIMIT), small.patch(*COMMENT)]
    for patch in patches if first else reversed(patches):
        series.add(patch)
    idle = "1.patch" if first else "0.patch"
    assert series.idle() == {idle: "no function that runs changes in fs/open.o"}


def test_two_patches_that_both_change_an_object(small: SmallKernel, series: Series) -> None:
    series.add(small.patch(*LIMIT))
    series.add(small.patch("fs/open.c", "doubled(count)", "doubled(count) + 1"))
    assert series.idle() == {}
    assert series.asked == ["fs/open.o", "fs/open.o"]


def test_patches_that_compile_only_together(small: SmallKernel, series: Series) -> None:
    series.add(small.patch("fs/open.c", "number > LIMIT", "number > NEW"))
    series.add(small.patch("fs/open.c", "static int count;", "#define NEW 4\nstatic int count;"))
    assert series.idle() == {}


def test_a_definition_that_a_later_patch_uses(small: SmallKernel, series: Series) -> None:
    series.add(small.patch("fs/open.c", "static int count;", "#define NEW 4\nstatic int count;"))
    series.add(small.patch("fs/open.c", "number > LIMIT", "number > NEW"))
    assert series.idle() == {}


def test_a_comment_that_a_later_patch_has_around_its_lines(
    small: SmallKernel, series: Series
) -> None:
    series.add(small.patch("fs/open.c", "\tif (number", "\t/* many */\n\tif (number"))
    text = (small.source / "fs/open.c").read_text()
    (small.source / "fs/open.c").write_text(text.replace("\tif (num", "\t/* many */\n\tif (num"))
    series.add(small.patch(*LIMIT))
    (small.source / "fs/open.c").write_text(text)
    assert series.idle() == {"0.patch": "no function that runs changes in fs/open.o"}


def test_a_new_header_and_its_user(small: SmallKernel, series: Series) -> None:
    series.add("--- /dev/null\n+++ b/fs/new.h\n@@ -0,0 +1 @@\n+#define NEW 5\n")
    old = (small.source / "fs/read.c").read_text()
    new = '#include "new.h"\n' + old.replace("READ +", "NEW +")
    series.add(small.patch("fs/read.c", old, new))
    assert series.idle() == {}


def test_a_macro_that_only_one_object_uses(small: SmallKernel, series: Series) -> None:
    series.add(small.patch("fs/read.h", "READ 7", "READ 6"))
    series.add(small.patch("fs/sub/write.c", "return WRITE", "return number + WRITE"))
    assert series.idle() == {}


def test_a_cover_letter_is_no_patch(small: SmallKernel, series: Series) -> None:
    series.add("Subject: [PATCH 0/1] words\n\nMore.\n")
    series.add(small.patch(*LIMIT))
    assert series.idle() == {}
    assert series.compiled().patched.cover_letters == {"0.patch"}
