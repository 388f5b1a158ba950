"""Changed structures are found in the text, whatever stands around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.errors import KlpError, Problems
from klpbuild.extract.layout import changed_structures, check_layouts
from klpbuild.extract.patchfile import PatchedFile, PatchedSource, SourceLine

BEFORE = """
struct cache { int a; /* one { */ char *b; };
struct { int unnamed; } x;
union both { int a; struct inner { long c; } d; };
const char *text = "struct quoted { int a; }";
"""


def test_a_new_field_changes_its_structure() -> None:
    after = BEFORE.replace("char *b;", "char *b; int c;")
    assert changed_structures(BEFORE, after) == ("struct cache",)


def test_a_field_of_an_inner_structure_changes_both() -> None:
    assert changed_structures(BEFORE, BEFORE.replace("long c", "int c")) == (
        "struct inner",
        "union both",
    )


def test_comments_blanks_and_strings_do_not_count() -> None:
    after = BEFORE.replace("/* one { */", "\n\t// two\n").replace("quoted { int", "quoted { long")
    assert changed_structures(BEFORE, after) == ()


def test_new_and_removed_structures_change_nothing() -> None:
    assert changed_structures(BEFORE, "struct other { int a; };") == ()


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert changed_structures(text, text) == ()


def test_the_refusal_names_the_structure_and_a_way_out() -> None:
    after = BEFORE.replace("char *b;", "char *b; int c;").encode()
    lines = tuple(SourceLine(line, None) for line in after.splitlines(keepends=True))
    file = PatchedFile("fs/x.c", BEFORE.encode(), lines, "fix.patch:3")
    problems = Problems()
    check_layouts(PatchedSource((file,), ()), ("struct cache",), problems)
    assert len(problems) == 0
    check_layouts(PatchedSource((file,), ()), (), problems)
    with pytest.raises(KlpError) as caught:
        problems.check()
    assert str(caught.value) == (
        "fix.patch:3: fs/x.c: struct cache changes\n"
        "  The running kernel has objects of the old layout, and code that knows it.\n"
        "  Keep the structure, and put new data into a shadow variable "
        "(klp_shadow_get_or_alloc).\n"
        "  If no object of it outlives the replaced functions, accept it: "
        '--accept-layout "struct cache", or accept_layouts = ["struct cache"] in livepatch.toml.'
    )
