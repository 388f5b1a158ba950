"""Decide whether an address that a function takes may leave it (escape analysis, x86-64).

Each instruction is followed with the set of registers that may hold the address, or one that
was computed from it.  Whatever is not known to keep it there counts as passing it on.  Whether it
is compared with another address is asked with the registers that surely hold it, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from klpbuild.arch.base import Instructions

#: Registers of arguments, and what else a call may change (psABI x86-64, 3.2.3).
_ARGUMENTS = frozenset({"rdi", "rsi", "rdx", "rcx", "r8", "r9"})
_RESULT = frozenset({"rax", "rdx"})
_SCRATCH = _ARGUMENTS | {"rax", "r10", "r11"}
_WIDE = {
    **{f"{p}{n}x": f"r{n}x" for n in "abcd" for p in ("e", "")},
    **{f"{n}{part}": f"r{n}x" for n in "abcd" for part in "lh"},
    **{f"e{n}": f"r{n}" for n in ("si", "di", "bp", "sp")},
    **{f"{n}{part}": f"r{n}" for n in ("si", "di", "bp", "sp") for part in ("", "l")},
    **{f"r{n}{part}": f"r{n}" for n in range(8, 16) for part in "dwb"},
}
_REGISTER = re.compile(r"\b[a-z]\w{1,3}\b")
#: Instructions that compute their first operand from the others alone, or also from itself.
_COPIES = frozenset({"mov", "movabs", "movzx", "movsx", "movsxd", "lea"})
_COMPUTES = frozenset(
    {"add", "sub", "and", "or", "xor", "shl", "shr", "sar", "neg", "not", "inc", "dec", "imul"}
)
_COMPARES = frozenset({"cmp", "test", "bt", "nop", "endbr64", "ud2", "lfence", "pause", "int3"})

#: Instructions that compare, or subtract, what they name.
_DIFFER = frozenset({"cmp", "sub"})
#: A register's place on the stack; rbp is the frame of a function whose stack is aligned.
_SLOT = re.compile(r"qword ptr (\[(?:rsp(?: \+ \w+)?|rbp - \w+)\])")
_ON_STACK = ("[rsp", "[rbp - ")

_State = frozenset[str]
_NONE: _State = frozenset()


def passes_on(
    instructions: Instructions,
    code: bytes,
    taken: Collection[int],
    relocated: Collection[int],
    entries: Collection[int],
) -> bool:
    """Tell whether a function may store, hand on or return an address that it takes.

    :param code: the function's.
    :param taken: offsets of the fields that are the address, not accesses to what is there.
    :param relocated: offsets of all fields that lead elsewhere.
    :param entries: offsets where code goes on that no branch shows, as tables say.
    """
    steps = {step[0]: step for step in instructions.decode(code)}
    states: dict[int, _State] = {0: frozenset()}
    pending, left = [0], set(taken)
    while pending:
        offset = pending.pop()
        if offset == len(code):
            continue  # behind a call that does not return
        if offset not in steps:
            return True
        _, size, words, operands = steps[offset]
        mnemonic, inside = words.split()[-1], range(offset, offset + size)
        after = _after(mnemonic, operands, states[offset], any(at in inside for at in taken))
        left.difference_update(inside)
        aims, leaves = _next(inside, mnemonic, operands, relocated)
        if after is None or (leaves and after):
            return True
        for place in (*aims, *entries):
            known = states.get(place)
            if known is None or not after <= known:
                states[place] = (known or frozenset()) | after
                pending.append(place)
    return bool(left)


@dataclass(frozen=True)
class Paths:
    """The ways through a function, and where it takes an address.

    :ivar code: the function's bytes.
    :ivar taken: offsets of the fields that are the address, not accesses to what is there.
    :ivar relocated: offsets of all fields that lead elsewhere.
    :ivar entries: where code may also go on behind an instruction, as tables say, by its offset.
    """

    instructions: Instructions
    code: bytes
    taken: Collection[int]
    relocated: Collection[int]
    entries: Mapping[int, Collection[int]]

    def compares(self, *, surely: bool = False) -> bool:
        """Tell whether the function may compare the address with one from elsewhere.

        Their difference counts, too.

        :param surely: whether to count only what surely is that.
        """
        return any(
            step.mnemonic in _DIFFER
            and (
                step.differ(step.other, step.one, surely)
                or (step.mnemonic == "cmp" and step.differ(step.one, step.other, surely))
            )
            for step in self._steps(results=surely)
        )

    def stores(self, keeping: Collection[int]) -> bool:
        """Tell whether the function may store the address, other than on its stack.

        :param keeping: offsets of the fields of calls that keep what they get.
        """
        return any(
            (step.mnemonic == "mov" and "ptr [" in step.one and step.is_it(step.other))
            or (step.may & _ARGUMENTS and any(at in step.inside for at in keeping))
            for step in self._steps()
            if not any(place in step.one for place in _ON_STACK)
        )

    def _steps(self, *, results: bool = False) -> Iterator[_Step]:
        """Follow the instructions, some of them again when more is known of what they hold.

        :param results: whether what gets the address may give one, as strchr() does.
        """
        steps = {step[0]: step for step in self.instructions.decode(self.code)}
        states, pending = {0: (_NONE, _NONE)}, [0]
        while pending:
            offset = pending.pop()
            if offset not in steps:
                continue  # behind a call that does not return
            _, size, words, operands = steps[offset]
            one, _, other = (_WIDE.get(o, o) for o in _SLOT.sub(r"\1", operands).partition(", "))
            inside = range(offset, offset + size)
            takes = any(at in inside for at in self.taken)
            step = _Step(inside, words.split()[-1], one, other, operands, takes, *states[offset])
            yield step
            after = [step.kept(held) for held in (step.may, step.surely)]
            if results and step.mnemonic == "call" and step.may & _ARGUMENTS:
                after[0] |= {"rax"}
            if step.mnemonic.startswith("cmov") and not (
                one in step.surely and step.is_it(other, surely=True)
            ):
                after[1] -= {one}
            aims = _next(inside, step.mnemonic, operands, self.relocated)[0]
            for place in (*aims, *self.entries.get(offset, ())):
                known = states.get(place, (_NONE, after[1]))
                joined = after[0] | known[0], after[1] & known[1]
                if joined != states.get(place):
                    states[place] = joined
                    pending.append(place)


class _Step(NamedTuple):
    """An instruction, with the registers and places on the stack that hold the address before it.

    :ivar takes: whether a number that it names is the address.
    :ivar may: what may hold it.
    :ivar surely: what surely does.
    """

    inside: range
    mnemonic: str
    one: str
    other: str
    operands: str
    takes: bool
    may: _State
    surely: _State

    def is_it(self, operand: str, *, surely: bool = False) -> bool:
        """Tell whether an operand may be, or surely is, the address."""
        return _is_it(operand, self.surely if surely else self.may, self.takes)

    def differ(self, one: str, other: str, surely: bool) -> bool:
        """Tell whether one operand may be the address, and the other be none; or surely so."""
        known = other if not _is_number(other) else ""
        return (
            bool(known)
            and self.is_it(one, surely=surely)
            and not self.is_it(known, surely=not surely)
        )

    def kept(self, held: _State) -> _State:
        """Compute what holds the address behind the instruction."""
        one, other = self.one, self.other
        if self.mnemonic == "call":
            return held - _SCRATCH
        if self.mnemonic == "sub" and _is_it(other, held, self.takes):
            return held - {one}  # a number
        if self.mnemonic == "mov" and "[" in (one[:1], other[:1]):
            return held | {one} if _is_it(other, held, self.takes) else held - {one}
        after = _after(self.mnemonic, self.operands, held, self.takes)
        return held if after is None else after


def _is_it(operand: str, held: _State, takes: bool) -> bool:
    """Tell whether an operand is the address: of what is held, or the one that is taken."""
    return operand in held or (takes and _is_number(operand))


def _is_number(operand: str) -> bool:
    return operand[:1].isdigit() or operand.startswith("-")


def _next(
    inside: range, mnemonic: str, operands: str, relocated: Collection[int]
) -> tuple[list[int], bool]:
    """Find where code goes on in the function, and tell whether it may go on in another one."""
    if mnemonic in ("ret", "ud2", "int3"):
        return [], False
    if not mnemonic.startswith("j"):
        return [inside.stop], False
    direct = operands.startswith("0x") and not any(at in inside for at in relocated)
    aims = [int(operands, 16)] if direct else []
    return aims + [inside.stop] * (mnemonic != "jmp"), not direct


def _after(mnemonic: str, operands: str, held: _State, takes: bool) -> _State | None:
    """Compute the registers with the address behind an instruction, None if it may pass it on."""
    first, *others = operands.split(", ") if operands else [""]
    target = _WIDE.get(first, first)
    if mnemonic == "call":
        return None if takes or held & _ARGUMENTS else held - _SCRATCH
    if mnemonic == "ret":
        return None if held & _RESULT else held
    if mnemonic in _COMPARES or mnemonic.startswith(("j", "set")):
        return held
    if mnemonic == "push":
        return None if takes or target in held else held
    if mnemonic == "pop" or (mnemonic == "xor" and others == [first]):
        return held - {target}
    known = mnemonic in _COPIES or mnemonic in _COMPUTES or mnemonic.startswith("cmov")
    if not known or (mnemonic == "imul" and not others):
        # Others read and write registers that their operands do not name.
        return None if held or takes else held
    sources = [part for part in others if mnemonic == "lea" or "[" not in part]
    given = takes or any(_registers(part) & held for part in sources)
    if "[" in first:
        return None if given else held
    # A narrow register is part of a wide one.
    replaces = mnemonic in _COPIES and (first == target or first[0] == "e" or first[-1] == "d")
    return held | {target} if given else held - {target} if replaces else held


def _registers(operand: str) -> _State:
    return frozenset(_WIDE.get(name, name) for name in _REGISTER.findall(operand))
