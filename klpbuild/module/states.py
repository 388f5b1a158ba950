"""States of a livepatch: what the one that takes its place has to know (struct klp_state).

The kernel lets a livepatch with ``replace`` in only if it has every state of those that are
enabled, in no older version (kernel/livepatch/state.c, klp_is_patch_compatible).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from klpbuild.elf.constants import SHN_UNDEF
from klpbuild.module.livepatch import Livepatch, State
from klpbuild.module.owntables import code_of, included_files

if TYPE_CHECKING:
    from klpbuild.elf.reader import ElfFile  # its numpy is not waited for where nothing is done

#: Functions that make shadow variables (Documentation/livepatch/shadow-vars.rst).
_ALLOCATE = ("klp_shadow_alloc", "klp_shadow_get_or_alloc")
_CALLED = re.compile(rf"\b(?:{'|'.join(_ALLOCATE)})\b")
#: Changes when a list of words is laid out otherwise: an older one cannot be read then.
_LIST = "klpbuild list 1"


def allocates(elf: ElfFile) -> bool:
    """Tell whether an object makes shadow variables."""
    return any(s.name in _ALLOCATE for s in elf.symbol_list if s.st_shndx == SHN_UNDEF)


def may_allocate(source: Path) -> bool:
    """Tell whether the text of a C file, or of its own headers, names a function that does.

    :raises KlpError: when a file cannot be read.
    """
    return any(_CALLED.search(code_of(path)) for path in (source, *included_files(source)))


@dataclass(frozen=True)
class Numbered:
    """A state as the kernel knows it.

    :ivar number: the same in all versions of a livepatch.
    :ivar name: for people.
    :ivar variable: the object and the variable that it is of, if it is of one.
    """

    number: int
    version: int
    name: str
    variable: tuple[str, str] | None = None


def numbered(livepatch: Livepatch) -> list[Numbered]:
    """List what a livepatch leaves behind, with numbers: what it says, and accepted variables."""
    found = [
        Numbered(state_number(state), state.version, state.name)
        for state in livepatch.states
        if state.version
    ]
    found += [
        Numbered(_number(f"{_LIST} {entry.name} {name}"), 1, name, (entry.name, name))
        for entry in livepatch.objects
        for words in entry.words
        for name in words.variables
    ]
    return found


def state_number(state: State) -> int:
    """Return the number of a state that a description names."""
    return _number(f"klpbuild state {state.name}")


def _number(text: str) -> int:
    # An unsigned long of every architecture with 64 bits, and never 0, which ends the table.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") or 1
