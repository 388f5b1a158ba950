"""A quilt series file says which patches, in which order, and how their names are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.commands.build import _patches
from klpbuild.errors import KlpError
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.series import Listed, read_series, stated_level
from klpbuild.request.chosen import named_livepatches

CODE = "int one;\nint two;\nint three;\n"


def patch(old: str, new: str, code: str = CODE, prefix: str = "a/") -> str:
    kept = [f" {line}\n" for line in code.split("\n")[:3]]
    lines = "".join(kept).replace(f" {old}\n", f"-{old}\n+{new}\n")
    name = f"{prefix}tools/fs/x.c"
    return f"--- {name}\n+++ {name}\n@@ -1,3 +1,3 @@\n{lines}"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Two patches; the second one's name fits the source tree in two ways."""
    directory = tmp_path / "fixes" / "both"
    (directory / "more").mkdir(parents=True)
    (directory / "z.patch").write_text(patch("int one;", "int first;"))
    between = CODE.replace("one", "first")
    (directory / "more" / "a.diff").write_text(patch("int three;", "int third;", between, ""))
    text = "# two patches\n\nz.patch -p1 # the first\nmore/a.diff\t-p0\n"
    (directory / "series").write_text(text)
    return directory / "series"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("tools/fs/x.c", "fs/x.c"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        (tmp_path / "source" / name).write_text(CODE)
    return tmp_path / "source"


def test_order_and_options(series: Path) -> None:
    first, second = series.parent / "z.patch", series.parent / "more" / "a.diff"
    assert read_series(series) == (Listed(first, 1), Listed(second, 0))
    assert (stated_level(first), stated_level(second)) == (1, 0)
    assert stated_level(series.parent / "other.patch") is None
    assert _patches(series) == [first, second]


def test_what_it_says_of_names_is_done(series: Path, source: Path) -> None:
    (file,) = apply_patches([each.path for each in read_series(series)], source).files
    assert (file.path, file.patches) == ("tools/fs/x.c", ("z.patch", "a.diff"))
    series.unlink()
    with pytest.raises(KlpError, match=r"which may be tools/fs/x\.c"):
        apply_patches([series.parent / "more" / "a.diff"], source)


def test_a_livepatch_of_a_series(series: Path) -> None:
    (named,) = named_livepatches(series.parent.parent, "all")
    assert named.chosen is not None
    assert [path.name for path in named.chosen.patches] == ["z.patch", "a.diff"]
    (series.parent / "b.patch").write_text("")
    (named,) = named_livepatches(series.parent.parent, "all")
    assert str(named.error) == (
        f"{series}: does not name b.patch\n"
        "  A patch beside it would be left out without a word.\n"
        "  Name it, or move it away."
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("none.patch", "names none.patch, which is not there"),
        ("z.patch -R", "has the option -R"),
        ("../x.patch", "names ../x.patch, which is not below the series"),
        ("z.patch\nz.patch", "names z.patch again"),
        ("/etc/passwd", "names /etc/passwd, which is not below the series"),
    ],
)
def test_what_cannot_be_done(series: Path, line: str, what: str) -> None:
    series.write_text(f"# one\n{line}\n")
    with pytest.raises(KlpError) as caught:
        read_series(series)
    assert str(caught.value).startswith(f"{series}:{2 + line.count(chr(10))}: {what}")
