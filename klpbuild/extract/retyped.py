"""Compare the types of a variable before and after a patch.

The running kernel's variable keeps its content, which new code must read as the old code wrote
it.  Structures that have a name are compared by that, once for all.
"""

from __future__ import annotations

import re

from klpbuild.elf.vartypes import VariableType
from klpbuild.extract.state import is_number
from klpbuild.extract.variable import Variable

_SHAPE = re.compile(r"(.*?)((?:\[\d*\])*)$", re.DOTALL)
_ONE = "[1]"
_WIDTH = re.compile(r"\b(?:char|_Bool|short|long|struct static_key\w*|struct percpu_counter)\b")


def type_change(old: Variable, new: Variable) -> str:
    """Explain why code takes a variable for another type; empty if it does not."""
    before, after = old.type, new.type
    if not before.text or not after.text or len(old.atom) != len(new.atom):
        return ""  # another size is a change of its own
    if _alike(before.text, after.text) or _same_members(before, after):
        return ""
    if before.members and after.members:
        return f"Its members were {_listed(before)}\nand are {_listed(after)}."
    return f"Its type was {before.text} and is {after.text}."


def _alike(before: str, after: str) -> bool:
    """Tell whether what is one type can be read as another one of the same size."""
    if before == after or " : " in before + after:  # a bit field
        return before == after
    (old, had), (new, has) = _shape(before), _shape(after)
    if had or has:
        return had == has and _alike(old, new)
    if old == new or (is_number(old) and is_number(new) and _width(old) == _width(new)):
        return True
    if not (old.endswith("*") and new.endswith("*")):
        return False
    aims = old[:-1].strip(), new[:-1].strip()
    return "void" in aims or _alike(*aims)


def _width(number: str) -> str:
    """Tell how wide a number is, by the word that says so; signs and structures do not count."""
    match = _WIDTH.search(number)
    return match[0].replace("_Bool", "char") if match else "int"


def _shape(text: str) -> tuple[str, str]:
    """Split a type into that of an element and the dimensions; one element is no array."""
    match = _SHAPE.fullmatch(text)
    assert match is not None
    return match[1], match[2].replace(_ONE, "")


def _same_members(before: VariableType, after: VariableType) -> bool:
    """Tell whether two structures have the same members in their order, some renamed."""
    olds, news = list(before.members), list(after.members)
    if not olds or len(olds) != len(news):
        return False
    stay = all(olds.index(name) == place for place, name in enumerate(news) if name in olds)
    types = zip(before.members.values(), after.members.values(), strict=True)
    return stay and all(_alike(old, new) for old, new in types)


def _listed(type: VariableType) -> str:
    return ", ".join(f"{text} {name}".strip() for name, text in type.members.items())
