"""Tell where code compares or stores addresses of the livepatch's own texts and constants.

A function's texts come along with it.  What stores their address, or hands it to a function that
keeps it, leaves the kernel with one that leads nowhere once the livepatch is unloaded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from functools import partial

from klpbuild.elf.constants import SHF
from klpbuild.extract.atoms import Atom, Literal
from klpbuild.extract.case import Case
from klpbuild.extract.names import base_name
from klpbuild.extract.sections import Memory, SectionKind, memory_of
from klpbuild.extract.variables import paths

#: Functions that keep the pointer to a name that they get (kernel/irq/manage.c, kernel/resource.c,
#: kernel/cpu.c, kernel/events/core.c, drivers/base/class.c).
_KEEPING = re.compile(
    r"(devm_)?request_(threaded|any_context)_irq|__request_percpu_irq|request_nmi"
    r"|__(devm_)?request_region|__cpuhp_setup_state(_cpuslocked)?|perf_pmu_register"
    r"|(__)?class_create"
)
_LONGEST = 30
#: Of NL_SET_ERR_MSG() (include/linux/netlink.h): it is kept until the request is answered.
_MESSAGE = "__msg"


def settle_texts(case: Case, included: Collection[Atom]) -> None:
    """Note which functions store addresses of the livepatch's own texts and constants.

    Refuse those that compare one: the kernel may have stored that of its own.
    """
    if not case.patched.instructions.registers:
        return
    for user in sorted((a for a in included if a.is_function), key=lambda a: a.index):
        texts, constants = _own(case, user, included)
        ways = partial(paths, case.patched, user)
        compared = [name for name, taken in texts.items() if ways(taken).compares(surely=True)]
        if compared:
            case.refuse(
                f"{user.name} compares the address of {', '.join(compared[:3])}",
                user,
                why="The livepatch has its own copy of a text, and the kernel may have stored the"
                " address of its own.",
                hint="Compare what they say: strcmp().",
            )
        keeping = [
            reference.offset
            for reference in case.patched.references(user)
            if (symbol := case.patched.undefined(reference)) and _KEEPING.fullmatch(symbol.name)
        ]
        stored = [
            name
            for name, taken in (*texts.items(), *constants.items())
            if ways(taken).stores(keeping)
        ]
        if stored:
            more = f" and {len(stored) - 3} more" if len(stored) > 3 else ""
            case.notices.append(
                f"{case.place(user)}: stores the address of {', '.join(stored[:3])}{more} in the"
                " livepatch: what keeps it must be gone before that is unloaded"
            )


_Taken = dict[str, list[int]]


def _own(case: Case, user: Atom, included: Collection[Atom]) -> tuple[_Taken, _Taken]:
    """Find where a function takes addresses of texts, and of constants, that come along."""
    texts, constants = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for reference in case.patched.references(user):
        target = reference.target
        if case.patched.is_memory_operand(user, reference):
            continue
        if isinstance(target, Literal):
            section = case.patched.elf.sections[target.section]
            if section.sh_flags & SHF.STRINGS and target.entry < 0:
                text = target.content.rstrip(b"\0").decode(errors="replace")
                short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
                texts[ascii(short)].append(reference.offset)
        elif isinstance(target, Atom) and target in included and _is_constant(target):
            constants[target.name].append(reference.offset)
    return texts, constants


def _is_constant(atom: Atom) -> bool:
    is_data = atom.kind is SectionKind.DATA and bool(atom.symbols)
    is_message = base_name(atom.name) == _MESSAGE
    return is_data and memory_of(atom.section) is Memory.READ_ONLY and not is_message
