"""Find direct branches of x86-64, and where they lead."""

from __future__ import annotations

from klpbuild.check.entries import Target, target_of
from klpbuild.check.instructions import Instruction
from klpbuild.check.subject import Subject


def is_call(found: Instruction) -> bool:
    """Tell whether an instruction calls."""
    return found.name == "call"


def is_branch(found: Instruction) -> bool:
    """Tell whether an instruction jumps or calls."""
    word = found.name.split()[-1]
    return word == "call" or word.startswith("j")


def jumps_to(subject: Subject, target: Target) -> Target | None:
    """Find where the jump or call at a target leads; None for another instruction."""
    found = subject.instructions.at(*target.place)
    if found is None or not is_branch(found):
        return None
    width = 1 if found.size == 2 else 4
    row = subject.applied.get(target.section, {}).get(found.end - width)
    if row is not None:
        return target_of(subject, row).moved(width)
    if found.operands.startswith("0x") or found.operands.isdigit():
        return Target(target.section, int(found.operands, 0))
    return None
