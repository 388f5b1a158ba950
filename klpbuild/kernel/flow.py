"""Analyse one function of x86-64: its calls with their arguments, and its loops."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

#: Registers of the first six arguments (psABI x86-64, 3.2.3), what else a call may change, and
#: what it keeps.
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
SCRATCH = (*ARGUMENTS, "rax", "r10", "r11")
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")
_WIDE = {f"e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")}
_WIDE |= {f"r{number}d": f"r{number}" for number in range(8, 16)}

NUMBER = re.compile(r"0x[0-9a-f]+|\d")
MOVES = ("mov", "movabs")
_FIELD = re.compile(r"qword ptr \[(r\w+)(?: [+-] \w+)?\]$")
_TABLE = re.compile(r"ptr \[.*\*")
_STORE = re.compile(r"qword ptr \[(r\w+)(?: ([+-] (?:0x[0-9a-f]+|\d)))?\], ")


@dataclass(frozen=True)
class Call:
    """A call, or a jump to another function.

    :ivar at: number of its instruction in the function.
    :ivar target: place of the function; None when a pointer leads there.
    :ivar given: places of the functions whose addresses are its arguments.
    :ivar third: its third argument, where that is a constant.
    :ivar of_argument: whether the pointer is a field of what the caller's first argument
        points to.
    """

    at: int
    target: int | None
    given: frozenset[int]
    third: int | None
    of_argument: bool


@dataclass(frozen=True)
class Body:
    """A function's code.

    :ivar calls: in order.
    :ivar addresses: places of the functions whose addresses it takes.
    :ivar returns: whether it may come back to its caller, or end the task.
    :ivar loops: numbers of the instructions of each piece that can run again and again.
    :ivar works: places of the functions of which it makes work items.
    """

    calls: tuple[Call, ...]
    addresses: frozenset[int]
    returns: bool
    loops: tuple[frozenset[int], ...]
    works: frozenset[int] = frozenset()

    @cached_property
    def targets(self) -> frozenset[int]:
        """The functions that it calls by name."""
        return frozenset(call.target for call in self.calls if call.target is not None)

    def called_in_loops(self) -> Iterator[tuple[Call, ...]]:
        """List the calls of each loop."""
        for loop in self.loops:
            yield tuple(call for call in self.calls if call.at in loop)


@dataclass(frozen=True)
class Instruction:
    """An instruction; `target` is where a branch leads, `address` what it loads the address of."""

    offset: int
    mnemonic: str
    operands: str
    target: int | None
    address: int | None


def works(code: Iterable[Instruction]) -> frozenset[int]:
    """Find the functions of which code makes work items.

    INIT_WORK() of include/linux/workqueue.h fills a struct work_struct: ``data``, the two pointers
    of ``entry``, and the function.
    """
    filled: dict[tuple[str, int], int | None] = {}
    for each in code:
        if each.mnemonic in MOVES and (match := _STORE.match(each.operands)):
            place = match[1], int((match[2] or "0").replace(" ", ""), 16)
            filled[place] = each.address or filled.get(place)
    return frozenset(
        function
        for (base, at), function in filled.items()
        if function is not None and all((base, at - 8 * n) in filled for n in (1, 2, 3))
    )


def is_branch(mnemonic: str) -> bool:
    """Tell whether a mnemonic, with prefixes, is that of a call or a jump."""
    name = mnemonic.split()[-1]
    return name == "call" or name.startswith("j")


def _ends(instruction: Instruction) -> bool:
    return instruction.mnemonic == "jmp" or instruction.mnemonic.startswith(("ret", "ud", "int3"))


def loops(code: Sequence[Instruction], dead_ends: Collection[int]) -> Iterator[frozenset[int]]:
    """Find the loops of a function, each as numbers of its instructions.

    :param dead_ends: places of functions that do not return.
    """
    numbers = {each.offset: number for number, each in enumerate(code)}
    following: list[list[int]] = []
    for number, each in enumerate(code):
        found = [] if _ends(each) or each.target in dead_ends else [number + 1]
        if each.target in numbers and each.mnemonic != "call":
            found.append(numbers[each.target])
        elif each.mnemonic == "jmp" and _TABLE.search(each.operands):
            found.append(0)  # of a switch: to wherever
        following.append([n for n in found if n < len(code)])
    yield from _components(following)


class Registers:
    """Known contents of the registers on the way through a function, branches left aside."""

    def __init__(self) -> None:
        self._functions: dict[str, set[int]] = {}
        self._constants: dict[str, int] = {}
        self._argument, self._fields = {"rdi"}, set[str]()

    def given(self) -> frozenset[int]:
        """Collect the functions whose addresses are arguments now."""
        return frozenset(f for name in ARGUMENTS for f in self._functions.get(name, ()))

    @property
    def third(self) -> int | None:
        """The third argument, where that is a constant."""
        return self._constants.get("rdx")

    def is_field(self, pointer: str) -> bool:
        """Tell whether a register, or memory, holds a field of the first argument's pointee."""
        match = _FIELD.match(pointer)
        return match[1] in self._argument if match else pointer in self._fields

    def follow(self, instruction: Instruction) -> None:
        """Update the registers that an instruction writes."""
        if instruction.mnemonic == "call":
            for name in SCRATCH:
                self._forget(name)
            return
        target, _, source = instruction.operands.partition(", ")
        target, source = _WIDE.get(target, target), _WIDE.get(source, source)
        if instruction.mnemonic.startswith(("cmp", "test", "j", "push")) or "[" in target:
            return
        if instruction.address is not None:
            functions = self._functions.get(target, set())
            self._forget(target)  # the other branch may have given another function
            self._functions[target] = functions | {instruction.address}
            return
        copied = set(self._functions.get(source, ()))
        argument, field = source in self._argument, source in self._fields
        match = _FIELD.match(source)
        loaded = match is not None and match[1] in self._argument
        self._forget(target)
        if instruction.mnemonic not in MOVES:
            return
        if copied:
            self._functions[target] = copied
        if argument:
            self._argument.add(target)
        if field or loaded:
            self._fields.add(target)
        if NUMBER.fullmatch(source):
            self._constants[target] = int(source, 16)

    def _forget(self, name: str) -> None:
        self._functions.pop(name, None)
        self._constants.pop(name, None)
        self._argument.discard(name)
        self._fields.discard(name)


def _components(following: list[list[int]]) -> Iterator[frozenset[int]]:
    """Find strongly connected components among what the first node reaches (Tarjan)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    waiting: set[int] = set()
    work = [(0, iter(following[0]))] if following else []
    if work:
        order[0] = low[0] = 0
        stack.append(0)
        waiting.add(0)
    while work:
        node, rest = work[-1]
        for other in rest:
            if other not in order:
                order[other] = low[other] = len(order)
                stack.append(other)
                waiting.add(other)
                work.append((other, iter(following[other])))
                break
            if other in waiting:
                low[node] = min(low[node], order[other])
        else:
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[node])
            if low[node] == order[node]:
                piece = set()
                while node not in piece:
                    piece.add(stack.pop())
                waiting -= piece
                if len(piece) > 1 or node in following[node]:
                    yield frozenset(piece)
