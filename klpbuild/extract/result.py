"""Records of an extraction's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from klpbuild.errors import Problem
from klpbuild.extract.linkage import Origin


@dataclass(frozen=True)
class ChangedFunction:
    """A function of the original that the livepatch replaces.

    :ivar name: its name in the original object's symbol table.
    :ivar original: its symbol index there.
    :ivar symbol: name of its new version in the extracted object.
    :ivar why: what differs.
    :ivar origin: where the kernel has it, if not in this object.
    """

    name: str
    original: int | None
    symbol: str
    why: str
    origin: Origin | None = None


@dataclass(frozen=True)
class Reference:
    """An undefined symbol of the extracted object.

    :ivar symbol: its name there, which no other symbol of the object has.
    :ivar name: the name it has in the kernel.
    :ivar original: the symbol's index in the original object, None if that does not name it.
    :ivar is_defined: whether the original object defines it; else it is another object's.
    :ivar is_local: whether it is local in the original object.
    :ivar is_function_pointer: whether it is the address of a function that the livepatch
        replaces: the kernel compares and keeps such addresses, so that they stay those of
        the original function.
    :ivar is_address: whether something other than a direct jump or call uses it.
    :ivar origin: the object of the patch whose original has it, if that is not this one.
    """

    symbol: str
    name: str
    original: int | None
    is_defined: bool
    is_local: bool
    is_function_pointer: bool
    is_address: bool
    origin: Origin | None = None


class KeyKind(Enum):
    """Kind of a key."""

    STATIC_BRANCH = "static branch"
    STATIC_CALL = "static call"


class KeyUse(Enum):
    """Treatment of the code that a key switches.

    A DETACHED branch is off for ever, as a tracepoint or pr_debug() that nobody enables.  A
    DETACHED call goes through the call's trampoline, which the kernel keeps up to date.
    """

    SWITCHED = "switched by its key"
    DETACHED = "detached from its key"


@dataclass(frozen=True)
class Key:
    """A static key or static call that extracted code uses and does not define.

    :ivar name: the key's name in the kernel.
    :ivar original: its symbol index in the original object, None if that does not name it.
    :ivar is_defined: whether the original object defines it.
    """

    kind: KeyKind
    name: str
    original: int | None
    is_defined: bool


#: Decides what becomes of a key's uses: `KeyUse`, or why it cannot be used.
KeyPolicy = Callable[[Key], "KeyUse | str"]


@dataclass(frozen=True)
class Included:
    """A function or variable of the extracted object.

    :ivar name: its name there.
    :ivar section: its section there.
    :ivar size: its size in bytes.
    :ivar why: what made it part of the livepatch.
    """

    name: str
    section: str
    size: int
    why: str


@dataclass(frozen=True)
class LeftOut:
    """Changed ``__init`` code or data that the livepatch does without.

    :ivar problem: the refusal, if the livepatch depends on it or has nothing else.
    :ivar state: names of the state that it uses; empty if only messages differ.
    """

    problem: Problem
    state: frozenset[str]


@dataclass(frozen=True)
class Extraction:
    """The extracted object and what is known about it.

    :ivar number: the object's place among those of the patch.
    :ivar object: the bytes of a relocatable file, for objtool and the linker.
    :ivar changed: functions to replace, in the object's order.
    :ivar new: names of included functions that the original does not have.
    :ivar globals: names of included global functions and variables that the original does not
        have, which other objects of the same livepatch may use.
    :ivar removed: names of the original's functions that the patched object does not have.
    :ivar references: its undefined symbols.
    :ivar keys: keys, each with the `KeyUse` of the code that it switches.
    :ivar included: all functions and variables in it.
    :ivar notices: what the user should know and is no fault.
    :ivar words: how many words of the kernel's variables a callback writes.
    :ivar written: names of these variables, by their numbers in the list.
    :ivar stays: whether one of them becomes a pointer into the livepatch, which must not be
        unloaded any more.
    :ivar left_out: changed ``__init`` code and data.
    :ivar state: names of the state that its code uses.
    """

    number: int
    object: bytes
    changed: tuple[ChangedFunction, ...]
    new: tuple[str, ...]
    globals: tuple[str, ...]
    removed: tuple[str, ...]
    references: tuple[Reference, ...]
    keys: tuple[tuple[Key, KeyUse], ...]
    included: tuple[Included, ...]
    notices: tuple[str, ...]
    words: int
    written: tuple[str, ...]
    stays: bool
    left_out: tuple[LeftOut, ...]
    state: frozenset[str]
