"""What changes of an exported symbol's interface counts, as genksyms prints it."""

from __future__ import annotations

import pytest

from klpbuild.patch.versions import Interfaces, changed_interfaces, read_types

TYPES = """\
s#cred struct cred { UNKNOWN }
s#file struct file { int mode ; s#cred * cred ; int ( * show ) ( int ) ; }
e#state enum state { OFF , ON = 3 }
t#u32 typedef unsigned int u32
open_it extern int open_it ( s#file * , e#state , t#u32 )
"""


def changed(old: str, new: str, *accepted: str) -> dict[tuple[str, ...], list[str]]:
    assert old in TYPES
    before = Interfaces({"open_it": "0x1"}, read_types(TYPES))
    after = Interfaces({"open_it": "0x2"}, read_types(TYPES.replace(old, new)))
    return changed_interfaces(before, after, accepted)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("struct cred { UNKNOWN }", "struct cred { int uid ; s#user * user ; }"),
        ("s#file * , e", "const s#file * , e"),
        ("int mode ;", "const int mode ;"),
        ("OFF , ON = 3 }", "OFF , ON = 3 , BROKEN }"),
    ],
)
def test_another_text_of_the_same_interface(old: str, new: str) -> None:
    assert changed(old, new) == {}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("int mode ;", "int mode ; int flags ;", "struct file"),
        ("( int ) ; }", "( int , int ) ; }", "struct file"),
        ("OFF , ON = 3 }", "OFF , BROKEN , ON = 3 }", "enum state"),
        ("unsigned int u32", "unsigned long u32", "typedef u32"),
        ("e#state , t#u32", "e#state , t#u32 , int", "its declaration open_it"),
    ],
)
def test_another_interface(old: str, new: str, what: str) -> None:
    assert changed(old, new) == {(what,): ["open_it"]}


def test_a_structure_that_may_change() -> None:
    assert changed("int mode ;", "int mode ; int flags ;", "struct file") == {}


def test_the_same_version() -> None:
    same = Interfaces({"open_it": "0x1"}, read_types(TYPES))
    assert changed_interfaces(same, same, ()) == {}
