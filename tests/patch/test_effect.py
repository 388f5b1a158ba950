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
        return frozenset(self.changed(pair)) or None

    def changed(self, pair: ObjectPair) -> list[str]:
        olds, news = self.functions(pair.original), self.functions(pair.patched)
        return [name for name in news if news[name] != olds.get(name)]

    @staticmethod
    def functions(path: Path) -> dict[str, bytes]:
        """The code of each function, with fields that refer to others left empty."""
        elf = ElfFile.read(path)
        return {
            s.name: bytes(elf.contents(elf.sections[s.st_shndx]))[s.st_value :][: s.st_size]
            for s in elf.symbol_list
            if s.is_function and s.is_defined
        }

    def idle(self, *, unused: str = "", sure: bool = True) -> dict[str, str]:
        compiled = self.compiled()
        used = {pair.target: self.changed(pair) for pair in compiled.pairs if pair.target != unused}
        found = patch_effects(compiled, self.patches, used, self.changes, "x86")
        idle = {name: each.idle for name, each in found.items() if each.idle is not None}
        assert all(each.sure is sure for each in idle.values())
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


def reverse(text: str) -> str:
    """The patch that takes another one back, of whole lines in place of others."""
    lines = text.splitlines(keepends=True)
    gone = [f"+{line[1:]}" for line in lines if line[0] == "-" and line[:3] != "---"]
    come = [f"-{line[1:]}" for line in lines if line[0] == "+" and line[:3] != "+++"]
    first = next(n for n, line in enumerate(lines) if line[0] == "-" and line[:3] != "---")
    kept = [line for line in lines if line[0] == " " or line[:3] in ("---", "+++", "@@ ")]
    return "".join((*kept[:first], *come, *gone, *kept[first:]))


TAKEN_BACK = {"0.patch": "1.patch takes it back", "1.patch": "it takes 0.patch back"}


def test_a_patch_that_another_one_takes_back(small: SmallKernel, series: Series) -> None:
    """The object, and even the function, changes by a third one."""
    series.add(small.patch(*LIMIT))
    series.add(reverse(small.patch(*LIMIT)))
    series.add(small.patch("fs/open.c", "return count++", "return ++count"))
    assert series.idle(sure=False) == TAKEN_BACK


def test_a_patch_that_another_one_takes_back_and_more(small: SmallKernel, series: Series) -> None:
    series.add(small.patch(*LIMIT))
    both = small.patch("fs/open.c", "doubled(count)", "doubled(count) + 1")
    series.add(reverse(small.patch(*LIMIT)) + "@@" + both.partition("@@")[2])
    assert series.idle(sure=False) == {"0.patch": "no function that runs changes in fs/open.o"}


def test_patches_that_move_a_line_to_another_function(small: SmallKernel, series: Series) -> None:
    """Neither takes the other one back, though the lines that they change are the same."""
    path = small.source / "fs/open.c"
    text = path.read_text()
    series.add(small.patch("fs/open.c", "{\n\tif (num", "{\n\tWARN();\n\tif (num"))
    path.write_text(text.replace("{\n\tif (num", "{\n\tWARN();\n\tif (num"))
    series.add(small.patch("fs/open.c", "\tWARN();\n\treturn doubled", "\treturn doubled"))
    path.write_text(text)
    assert series.idle() == {}


def test_a_patch_that_another_one_stands_on_is_taken_back(
    small: SmallKernel, series: Series
) -> None:
    path = small.source / "fs/open.c"
    text = path.read_text()
    more, changed = "\tif (number > LIMIT + 1)", "\treturn ++count"
    series.add(small.patch("fs/open.c", "\tif (number > LIMIT)", more))
    path.write_text(text.replace("\tif (number > LIMIT)", more))
    series.add(small.patch("fs/open.c", "\treturn count++", changed))
    path.write_text(path.read_text().replace("\treturn count++", changed))
    series.add(small.patch("fs/open.c", more, "\tif (number > LIMIT)"))
    path.write_text(text)
    assert series.idle(sure=False) == {
        "0.patch": "2.patch takes it back",
        "2.patch": "it takes 0.patch back",
    }


def test_an_object_that_comes_out_as_it_was(small: SmallKernel, series: Series) -> None:
    """The one patch undoes what the other one does, in another way."""
    series.add(small.patch("fs/read.c", "READ + number", "READ + number + 1"))
    text = (small.source / "fs/read.c").read_text()
    (small.source / "fs/read.c").write_text(text.replace("READ + number", "READ + number + 1"))
    series.add(small.patch("fs/read.c", "READ + number + 1", "number + READ"))
    (small.source / "fs/read.c").write_text(text)
    series.add(small.patch(*LIMIT))
    why = "the compiler makes the same of fs/read.o"
    assert series.idle(sure=False) == {"0.patch": why, "1.patch": why}


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
