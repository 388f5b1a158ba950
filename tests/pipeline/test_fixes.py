"""What becomes of each patch of a livepatch, with extractions that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from klpbuild.arch.x86_64 import X86_64
from klpbuild.errors import KlpError, Problem
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.fix import Fault, Fix, IdleError, PatchesError, Standing, count, fix_table
from klpbuild.pipeline.extracted import Extracted
from klpbuild.pipeline.fixes import extract_fixes, left_out
from klpbuild.request.matrix import Outcome, Result
from tests.patch.test_patchfile import OPEN_C, diff

#: No file of it is read.
KERNEL = Kernel(
    name="none", release="6.1.0", version=(6, 1, 0), build=Path("build"), arch=X86_64,
    config=Path("config"), module_symvers=Path("symvers"), modules=(), vmlinux=None,
    system_map=None, kallsyms=None, filter_functions=None, image=None, source=None,
    cache=Path("cache"),
)  # fmt: skip

Refuse = Callable[[tuple[str, ...], Collection[str] | None], KlpError | None]


class Fixes:
    """Patches a to f, of which some are refused."""

    def __init__(self, directory: Path, refuse: Refuse, names: str = "abcdef") -> None:
        self.refuse = refuse
        self.asked: list[tuple[str, Collection[str] | None]] = []
        self.patches = [directory / f"{name}.patch" for name in names]
        for name, patch in zip(names, self.patches, strict=True):
            patch.write_text(f"Subject: [PATCH] fix {name}\n\nCVE-2024-100{ord(name)}\n---\n")

    def extract(self, patches: Sequence[Path], only: Collection[str] | None) -> Extracted:
        names = tuple(patch.stem for patch in patches)
        self.asked.append(("".join(names), only))
        error = self.refuse(names, only)
        if error is not None:
            raise error
        fixes = (Fix(patch.name, Standing.IN, functions=("vmlinux:f",)) for patch in patches)
        return Extracted((), (), (), (), fixes=tuple(fixes))

    def build(self, keep_going: bool = True) -> Extracted:
        return extract_fixes(KERNEL, self.patches, self.extract, keep_going=keep_going)

    def refusal(self, keep_going: bool = False) -> PatchesError:
        with pytest.raises(PatchesError) as caught:
            self.build(keep_going)
        return caught.value


def refused(names: str, what: str = "cannot be", object_: str = "") -> KlpError:
    """An error of which one of some patches is the cause."""
    told = what, f"{object_ or 'x'}:f", "", ""
    patches = tuple(f"{name}.patch" for name in names)
    return KlpError.together([Fault(*told, Standing.REFUSED, patches, (), object_)])


def test_all_are_in(tmp_path: Path) -> None:
    fixes = Fixes(tmp_path, lambda names, only: None)
    assert fixes.build(keep_going=False).fixes[0] == Fix(
        "a.patch", Standing.IN, "fix a", ("CVE-2024-10097",), functions=("vmlinux:f",)
    )
    assert len(fixes.asked) == 1


def test_one_is_left_out_and_the_others_are_built(tmp_path: Path) -> None:
    fixes = Fixes(tmp_path, lambda names, only: refused("c") if "c" in names else None)
    found = fixes.build().fixes
    assert [fix.standing for fix in found] == [
        Standing.REFUSED if name == "c" else Standing.IN for name in "abcdef"
    ]
    assert found[2].why == "x:f: cannot be"
    assert str(left_out(found)) == ("1 patch is left out\n  c.patch: refused: x:f: cannot be")


def test_parts_of_c_files_are_counted_as_fixes() -> None:
    """In the result's line, in the error, and below the table."""
    fixes = (Fix("a.patch", Standing.IN), Fix("", Standing.REFUSED, part="more", why="no"))

    def said(found: tuple[Fix, ...]) -> tuple[str, ...]:
        text = Result("6.1.0-small", "many", Outcome.LOADS, fixes=found).text
        return text, str(left_out(found)).partition("\n")[0], count(found)

    assert said(fixes) == (
        "would load, without 1 of 2 fixes",
        "1 fix is left out",
        "2 fixes: 1 in, 1 refused.",
    )
    patches = (*fixes[:1], *[Fix(f"{name}.patch", Standing.REFUSED) for name in "bc"])
    assert said(patches) == (
        "would load, without 2 of 3 patches",
        "2 patches are left out",
        "3 patches: 1 in, 2 refused.",
    )


def test_without_keep_going_all_problems_are_told(tmp_path: Path) -> None:
    """Those of the second round, too."""

    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        if "c" in names:
            return refused("c", "is stale")
        return refused("e", "is not allowed") if "e" in names else None

    error = Fixes(tmp_path, refuse).refusal()
    assert str(error) == "x:f: is stale\nx:f: is not allowed"
    assert [fix.patch for fix in error.fixes if not fix.good] == ["c.patch", "e.patch"]


@pytest.mark.parametrize("culprit", "bdf")
def test_the_one_of_several_that_touch_an_object(tmp_path: Path, culprit: str) -> None:
    """It is looked for with that object only."""

    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        return refused("bdf", object_="fs/open.o") if culprit in names else None

    fixes = Fixes(tmp_path, refuse)
    found = fixes.build().fixes
    assert [fix.patch for fix in found if not fix.good] == [f"{culprit}.patch"]
    assert {frozenset(only) for _, only in fixes.asked if only} == {frozenset({"fs/open.o"})}
    assert len(fixes.asked) <= 4


def test_a_problem_that_only_some_of_the_patches_have(tmp_path: Path) -> None:
    """The first one needs what the last one brings; that is not what is wrong with all."""

    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        if "d" in names:
            return refused("bdf", "__init code changed", "fs/open.o")
        if "b" in names and "f" not in names:
            told = "symbol 'f' is not in this kernel", "fs/open.o", "", ""
            return KlpError.together([Fault(*told, Standing.REFUSED, ("b.patch",))])
        return None

    found = Fixes(tmp_path, refuse).build().fixes
    assert [fix.patch for fix in found if not fix.good] == ["d.patch"]


def test_what_names_no_patch_stops_all(tmp_path: Path) -> None:
    """It is about the machine or the description; nothing is left out for it."""

    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        return KlpError("there is not enough memory")

    fixes = Fixes(tmp_path, refuse)
    error = fixes.refusal(keep_going=True)
    assert str(error) == "there is not enough memory"
    assert {fix.standing for fix in error.fixes} == {Standing.NOT_TRIED}
    assert len(fixes.asked) == 1


def test_the_patch_that_a_place_names(tmp_path: Path) -> None:
    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        error = KlpError.together([Problem("is in no object", "d.patch:7")])
        return error if "d" in names else None

    found = Fixes(tmp_path, refuse).build().fixes
    assert found[3].result == "refused: d.patch:7: is in no object"


def test_none_is_left(tmp_path: Path) -> None:
    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        return refused(names[0]) if names[0] == "a" else IdleError("the patch changes nothing")

    error = Fixes(tmp_path, refuse, "ab").refusal(keep_going=True)
    assert [fix.standing for fix in error.fixes] == [Standing.REFUSED, Standing.IDLE]
    assert str(error) == "x:f: cannot be\nthe patch changes nothing"


def test_a_patch_that_only_compiles_with_one_that_is_left_out(tmp_path: Path) -> None:
    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        if "a" in names:
            return refused("a")
        if "b" not in names:
            return None
        told = "'NEW' undeclared", "b.patch:9", "", ""
        fault = Fault(*told, Standing.NOT_COMPILED, ("b.patch",), object="fs/b.o")
        return KlpError.together([fault])

    fixes = Fixes(tmp_path, refuse, "abc")
    fixes.patches[0].write_text("--- a/include/new.h\n+++ b/include/new.h\n")
    error = fixes.refusal()
    assert error.fixes[1].result == ("needs a.patch: b.patch:9: 'NEW' undeclared")
    assert ("abc", {"fs/b.o"}) in fixes.asked  # one object, not all

    (tmp_path / "other").mkdir()
    another = Fixes(tmp_path / "other", refuse, "abc")
    another.patches[0].write_text("--- a/fs/a.c\n+++ b/fs/a.c\n")
    assert another.refusal().fixes[1].result.startswith("does not compile: ")
    assert ("abc", {"fs/b.o"}) not in another.asked  # it cannot help


def test_a_patch_that_only_applies_after_one_that_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = OPEN_C.replace("limit = 3", "limit = 4")
    third = second.replace("limit = 4", "limit = 5")
    source = tmp_path / "source"
    (source / "fs").mkdir(parents=True)
    (source / "fs/open.c").write_text(OPEN_C)
    kernel = dataclasses.replace(KERNEL, source=source)

    def refuse(names: tuple[str, ...], only: Collection[str] | None) -> KlpError | None:
        if "a" in names:
            return refused("a")
        if "b" not in names:
            return None
        told = "hunk 1 of fs/open.c does not apply", "b.patch:3", "", ""
        return KlpError.together([Fault(*told, Standing.NOT_APPLIED, ("b.patch",))])

    fixes = Fixes(tmp_path, refuse, "abc")
    fixes.patches[0].write_text(diff("fs/open.c", OPEN_C, second))
    fixes.patches[1].write_text(diff("fs/open.c", second, third))
    found = extract_fixes(kernel, fixes.patches, fixes.extract, keep_going=True).fixes
    assert [fix.standing for fix in found] == [Standing.REFUSED, Standing.NEEDS, Standing.IN]
    assert found[1].others == ("a.patch",)


def test_what_is_left_out_on_purpose(tmp_path: Path) -> None:
    fixes = Fixes(tmp_path, lambda names, only: None)
    *taken, aside = fixes.patches
    found = extract_fixes(KERNEL, taken, fixes.extract, {aside: "needs a reboot"}).fixes
    assert found[-1] == Fix(
        "f.patch", Standing.SKIPPED, "fix f", ("CVE-2024-100102",), "needs a reboot"
    )
    assert left_out(found) is None


def test_patches_are_told_in_their_order(tmp_path: Path) -> None:
    fixes = Fixes(tmp_path, lambda names, only: None)
    first, *taken = fixes.patches
    where = KERNEL, taken, fixes.extract, {first: ""}
    found = extract_fixes(*where, listed=fixes.patches).fixes
    assert [fix.patch for fix in found] == [path.name for path in fixes.patches]
    assert found[0].standing is Standing.SKIPPED


def test_the_table_of_parts() -> None:
    fixes = (
        Fix("", Standing.IN, "by hand", functions=("vmlinux:f",), part="bsc1"),
        Fix("a.patch", Standing.IN, "fix a", ("CVE-2024-1",), functions=("tun:g",), part="fixes"),
        Fix("", Standing.SKIPPED, why="needs a reboot", part="bsc2"),
    )
    assert fix_table(fixes) == (
        "part           CVE         functions  result",
        "bsc1           -           f          in; by hand",
        "fixes/a.patch  CVE-2024-1  g          in; fix a",
        "bsc2           -           -          left out on purpose: needs a reboot",
        "3 fixes: 2 in, 1 left out on purpose.",
    )


def test_the_table() -> None:
    fixes = (
        Fix("a.patch", Standing.IN, "fix a", ("CVE-2024-1",), functions=("vmlinux:f", "tun:g")),
        Fix("long.patch", Standing.CONFLICTS, why="long.patch:3: hunk 1", others=("a.patch",)),
        Fix("c.patch", Standing.SKIPPED, why="needs a reboot"),
    )
    assert fix_table(fixes) == (
        "patch       CVE         functions  result",
        "a.patch     CVE-2024-1  f, g       in; fix a",
        "long.patch  -           -          conflicts with a.patch: long.patch:3: hunk 1",
        "c.patch     -           -          left out on purpose: needs a reboot",
        "3 patches: 1 in, 1 left out on purpose, 1 conflicts.",
    )
    assert fix_table(fixes[:1]) == ()
