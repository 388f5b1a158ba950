"""A livepatch made of parts: which there are, in which order, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.request.chosen import Chosen, named_livepatches

PART = """\
description = "a fix"
references = ["CVE-2024-1"]
accept_layouts = ["struct {name}"]
[[object]]
name = "vmlinux"
functions = [{{ old = "{name}_show", new = "livepatch_{name}_show" }}]
callbacks = {{ pre_patch = "{name}_begins" }}
"""


def sources(directory: Path, name: str, more: str = "") -> None:
    part = directory / "all" / name
    part.mkdir(parents=True)
    (part / "main.c").write_text("")
    (part / "livepatch.toml").write_text(more + PART.format(name=name))


def patches(directory: Path, name: str, *names: str) -> None:
    part = directory / "all" / name
    part.mkdir(parents=True)
    for each in names:
        (part / each).write_text("")


def chosen(directory: Path, toml: str = "", series: str = "") -> Chosen:
    (directory / "all").mkdir(exist_ok=True)
    if toml:
        (directory / "all" / "livepatch.toml").write_text(toml)
    if series:
        (directory / "all" / "series").write_text(series)
    (named,) = named_livepatches(directory, "all")
    if named.error is not None:
        raise named.error
    assert named.chosen is not None
    return named.chosen


def refused(directory: Path, toml: str = "", series: str = "") -> str:
    with pytest.raises(KlpError) as caught:
        chosen(directory, toml, series)
    return str(caught.value).replace(f"{directory}/", "")


@pytest.mark.parametrize(
    "named",
    [{"toml": 'parts = ["b", "fixes", "a"]\n'}, {"series": "b/\nfixes # patches\na\n"}],
)
def test_parts_of_both_kinds_in_their_order(tmp_path: Path, named: dict[str, str]) -> None:
    sources(tmp_path, "a")
    sources(tmp_path, "b")
    patches(tmp_path, "fixes", "2.patch", "1.patch")
    found = chosen(tmp_path, **named)
    assert [part.name for part in found.parts] == ["", "b", "fixes", "a"]
    assert [path.name for path in found.patches] == ["1.patch", "2.patch"]
    main = [tmp_path / "all" / name / "main.c" for name in "ba"]
    assert found.livepatch.sources == tuple(main)
    (vmlinux,) = found.livepatch.objects
    assert [function.old for function in vmlinux.functions] == ["b_show", "a_show"]
    assert vmlinux.called == ("b_begins", "a_begins")
    assert found.callbacks == ()  # of the patches
    assert found.livepatch.references == ("CVE-2024-1",)
    assert found.accepted_layouts(main[0]) == ("struct b",)  # what another part accepts is its own
    assert found.accepted.layouts == ()


def test_what_the_whole_accepts_its_parts_accept(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    patches(tmp_path, "fixes", "1.patch")
    found = chosen(tmp_path, 'parts = ["a", "fixes"]\naccept_layouts = ["struct x"]\n')
    assert found.accepted.layouts == ("struct x",)
    assert found.accepted_layouts(tmp_path / "all/a/main.c") == ("struct x", "struct a")


def test_own_c_files_are_the_first_part(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    (tmp_path / "all" / "common.c").write_text("")
    found = chosen(tmp_path, 'parts = ["a"]\n')
    assert [path.name for path in found.livepatch.sources] == ["common.c", "main.c"]


def test_parts_that_are_left_out(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    sources(tmp_path, "b")
    patches(tmp_path, "fixes", "1.patch")
    skip = 'skip = ["fixes", { part = "b", reason = "by hand" }]\n'
    found = chosen(tmp_path, 'parts = ["a", "b", "fixes"]\n' + skip)
    assert [part.why_not for part in found.parts] == [None, None, "by hand", ""]
    assert [path.parent.name for path in found.livepatch.sources] == ["a"]
    assert found.patches == ()
    assert [path.name for path in found.skipped] == ["1.patch"]


def test_a_function_that_two_parts_replace(tmp_path: Path) -> None:
    for name in "ab":
        sources(tmp_path, name)
    path = tmp_path / "all" / "b" / "livepatch.toml"
    path.write_text(path.read_text().replace("b_show", "a_show"))
    assert refused(tmp_path, 'parts = ["a", "b"]\n') == (
        "all/b/livepatch.toml:6: function 'a_show' of 'vmlinux' is replaced by two parts\n"
        "  The other one: all/a/livepatch.toml:6.\n"
        "  Make one replacement of both, and take the other one away."
    )


def test_names_that_are_no_parts(tmp_path: Path) -> None:
    sources(tmp_path, "fix")
    sources(tmp_path, "other")
    toml = 'parts = ["fix", "fox", "fix", "../x"]\nskip = ["y"]\n'
    assert refused(tmp_path, toml) == (
        "all/livepatch.toml:1: part 'fox' is not a directory with patches or C files\n"
        "  Did you mean fix?\n"
        "all/livepatch.toml:1: part 'fix' is named twice\n"
        "all/livepatch.toml:1: part '../x' is not a directory with patches or C files\n"
        "  Write all/../x/.\n"
        "all/livepatch.toml:1: does not name other\n"
        "  A part beside the others would be left out without a word.\n"
        '  Name it in parts; skip = [{ part = "x", reason = "..." }] leaves it out.\n'
        "all/livepatch.toml:2: skip names 'y', which is not one of the parts\n"
        "  Take it out."
    )


def test_what_stands_beside_parts(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    (tmp_path / "all" / "x.patch").write_text("")
    (tmp_path / "all" / "main.c").write_text("klp_enable_patch(&patch);")
    assert refused(tmp_path, series="a\n") == (
        "all: x.patch stands beside parts\n"
        "  Nothing says when it is applied.\n"
        "  Put it into a part.\n"
        "all/main.c: brings its own struct klp_patch\n"
        "  A livepatch of parts has one, which klpbuild makes.\n"
        "  Name in all/livepatch.toml what it replaces, and take the tables out,\n"
        "  or name in sources the C files that are to be built."
    )


def test_tables_in_a_livepatch_of_parts(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    (tmp_path / "all" / "main.c").write_text("klp_enable_patch(&patch);")
    assert refused(tmp_path, 'parts = ["a"]\n') == (
        "all/main.c: brings its own struct klp_patch\n"
        "  A livepatch of parts has one, which klpbuild makes.\n"
        "  Name in all/livepatch.toml what it replaces, and take the tables out,\n"
        "  or name in sources the C files that are to be built."
    )


def test_a_series_of_both(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    (tmp_path / "all" / "x.patch").write_text("")
    assert refused(tmp_path, series="x.patch\na\n") == (
        "all/series:1: names x.patch, which is not a directory\n"
        "  Others of its lines do: a.\n"
        "  Put patches into a directory."
    )


def test_parts_that_are_named_twice(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    assert refused(tmp_path, 'parts = ["a"]\n', "a\n") == (
        "all/series:1: names the parts, too\n"
        "  all/livepatch.toml:1 names them already.\n"
        "  Take parts out of one of the two."
    )


def test_patches_of_one_name(tmp_path: Path) -> None:
    patches(tmp_path, "a", "1.patch")
    patches(tmp_path, "b", "1.patch")
    assert refused(tmp_path, 'parts = ["a", "b"]\n') == (
        "all/b/1.patch: has the name of a patch of another part\n"
        "  The other one: all/a/1.patch.\n"
        "  Rename one of them."
    )


def test_what_the_whole_says_and_no_part(tmp_path: Path) -> None:
    sources(tmp_path, "a", 'version = "1"\nparts = ["x"]\n')
    assert refused(tmp_path, 'parts = ["a"]\n') == (
        "all/a/livepatch.toml:1: version stands in a part of a livepatch\n"
        "  Write it into the livepatch's own livepatch.toml.\n"
        "all/a/livepatch.toml:2: parts stands in a part of a livepatch\n"
        "  Write it into the livepatch's own livepatch.toml."
    )


def test_all_parts_left_out(tmp_path: Path) -> None:
    sources(tmp_path, "a")
    assert refused(tmp_path, 'parts = ["a"]\nskip = ["a"]\n') == (
        "all/livepatch.toml:2: skip leaves out all parts"
    )
