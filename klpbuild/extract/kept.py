"""Note texts and constants of the livepatch that the kernel may keep: they go when it does.

A function's texts come along with it.  What stores their address, or hands it to a function that
keeps it, leaves the kernel with one that leads nowhere once the livepatch is unloaded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from itertools import chain

from klpbuild.elf.constants import SHF
from klpbuild.extract.atoms import Atom, Literal
from klpbuild.extract.case import Case
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


def notice_kept(case: Case, included: Collection[Atom]) -> None:
    """Note which functions store addresses of the livepatch's own texts and constants."""
    if not case.patched.instructions.registers:
        return
    for user in sorted((a for a in included if a.is_function), key=lambda a: a.index):
        own = _own(case, user, included)
        keeping = [
            reference.offset
            for reference in case.patched.references(user)
            if (symbol := case.patched.undefined(reference)) and _KEEPING.fullmatch(symbol.name)
        ]
        if not own or not paths(case.patched, user, [*chain(*own.values())]).stores(keeping):
            continue
        names = [n for n, at in own.items() if paths(case.patched, user, at).stores(keeping)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        case.notices.append(
            f"{case.place(user)}: stores the address of {', '.join(names[:3])}{more} in the"
            " livepatch: what keeps it must be gone before that is unloaded"
        )


def _own(case: Case, user: Atom, included: Collection[Atom]) -> dict[str, list[int]]:
    """Find where a function takes addresses of texts and constants that come along, by name."""
    found: dict[str, list[int]] = defaultdict(list)
    for reference in case.patched.references(user):
        target = reference.target
        if case.patched.is_memory_operand(user, reference):
            continue
        if isinstance(target, Literal):
            section = case.patched.elf.sections[target.section]
            if section.sh_flags & SHF.STRINGS and target.entry < 0:
                text = target.content.rstrip(b"\0").decode(errors="replace")
                short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
                found[ascii(short)].append(reference.offset)
        elif isinstance(target, Atom) and target in included and _is_constant(target):
            found[target.name].append(reference.offset)
    return found


def _is_constant(atom: Atom) -> bool:
    is_data = atom.kind is SectionKind.DATA and bool(atom.symbols)
    return is_data and memory_of(atom.section) is Memory.READ_ONLY
