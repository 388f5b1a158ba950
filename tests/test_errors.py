"""What errors look like, and how problems are collected."""

from __future__ import annotations

import pytest

from klpbuild.errors import KlpError, Problem, Problems, printable


def test_a_problem_is_told_in_lines() -> None:
    assert str(Problem("is broken")) == "is broken"
    full = Problem("is ambiguous", "ext4.ko:.text+0x10:f", "Two have it.", "Write one of:\n\n    a")
    assert str(full) == (
        "ext4.ko:.text+0x10:f: is ambiguous\n  Two have it.\n  Write one of:\n  \n      a"
    )


def test_what_others_named_is_escaped() -> None:
    """Escape sequences, line breaks, bytes that are not UTF-8, and what turns text around."""
    problem = Problem("no\x1b[2J\nthing", "a\u202eb\udcff.c", "one\rtwo\ttabs", "\x9b1m\u2028x")
    assert str(problem) == (
        "a\\u202eb\\xff.c: no\\x1b[2J\\nthing\n  one\n  two\ttabs\n  \\x9b1m\n  x"
    )
    assert printable("plain ü 漢") == "plain ü 漢"
    assert printable("a\nb\0", keep="\n") == "a\nb\\x00"


def test_an_error_carries_its_problem() -> None:
    error = KlpError("is broken", where="a.o", why="A rule.", hint="Mend it.")
    assert error.problems == (Problem("is broken", "a.o", "A rule.", "Mend it."),)
    assert str(error) == "a.o: is broken\n  A rule.\n  Mend it."


def test_problems_are_told_together_once_each_in_order() -> None:
    first, second = Problem("one", "b"), Problem("two", "a")
    error = KlpError.together([first, second, first])
    assert error.problems == (first, second)
    assert str(error) == "b: one\na: two"


def test_an_error_needs_a_problem() -> None:
    with pytest.raises(ValueError, match="an error needs a problem"):
        KlpError.together([])


def test_collecting_goes_on_after_an_error() -> None:
    problems = Problems()
    problems.check()
    with problems.collect():
        raise KlpError("first", where="a.o")
    with problems.collect():
        problems.add("second", why="A rule.")
    with problems.collect():
        raise KlpError.together([Problem("third"), Problem("fourth")])
    assert len(problems) == 4
    with pytest.raises(KlpError) as caught:
        problems.check()
    assert str(caught.value) == "a.o: first\nsecond\n  A rule.\nthird\nfourth"


def test_our_own_mistakes_are_not_collected() -> None:
    problems = Problems()
    with pytest.raises(ZeroDivisionError), problems.collect():
        raise ZeroDivisionError
    problems.check()


def test_control_characters_are_shown() -> None:
    """They could change what a terminal shows; a name from a patch may have any."""
    assert printable("a\x1b[2J\n\t\x7f\x9b\udcff\ud800\u2028ä") == (
        "a\\x1b[2J\\n\\t\\x7f\\x9b\\xff\\ud800\\u2028ä"
    )
    problem = Problem("names \x1b[2J", "a\nb.patch:1", "The compiler says:\n\tx\x07", "\udcff")
    assert str(problem) == (
        "a\\nb.patch:1: names \\x1b[2J\n  The compiler says:\n  \tx\\x07\n  \\xff"
    )


def test_a_line_of_a_file_is_not_shown_whole_whatever_its_length() -> None:
    text = str(Problem(f"has {'x' * 100_000}, which is unknown", "a.c:1", "y" * 4000))
    first, second = text.splitlines()
    assert first == f"a.c:1: has {'x' * 1989} ... {'x' * 1982}, which is unknown"
    assert len(second) == 2000 + 5 + 2000
