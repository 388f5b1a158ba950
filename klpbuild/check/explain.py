"""Compare a patched function with the one that it replaces, reference by reference."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

from klpbuild.arch import by_machine
from klpbuild.check.code import MACHINES, Instruction, disassemble
from klpbuild.check.memory import Code, Loaded, Memory
from klpbuild.check.patched import PatchedFunction
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import ET, SHF, SHN_LIVEPATCH, SHN_UNDEF
from klpbuild.elf.reader import ElfFile, Symbol
from klpbuild.errors import KlpError, did_you_mean
from klpbuild.names import VMLINUX, LivepatchSection, LivepatchSymbol

_OWN = "the livepatch"
#: Comparing takes time with the product of both sizes; this is two functions of 20,000 bytes.
_LONG = 20_000**2
#: Labels of the assembler.
_LABEL = ".L"


@dataclass(frozen=True)
class Reference:
    """A symbol that the function's relocations name, and what it resolved to.

    :ivar symbol: its name in the file.
    :ivar what: where it leads.
    :ivar why: by which rule.
    :ivar count: how many relocations of the function name it.
    """

    symbol: str
    what: str
    why: str
    count: int


@dataclass(frozen=True)
class Pair:
    """An old and a new instruction at the same place; one of them may be missing."""

    old: Instruction | None
    new: Instruction | None

    @property
    def same(self) -> bool:
        """Whether both do the same to the same."""
        old, new = self.old, self.new
        if old is None or new is None or old.plain != new.plain:
            return False
        return old.target == new.target or old.text == new.text


@dataclass(frozen=True)
class Mismatch:
    """Code that did not change, but leads to another symbol of the same name."""

    pair: Pair
    what: str


@dataclass(frozen=True)
class Explanation:
    """The explanation of a function that `klpbuild explain` shows.

    :ivar name: of the new function.
    :ivar old: of the function that it replaces, ``object:name``; empty for another one.
    :ivar why: why it is in the module.
    :ivar references: what its relocations name.
    :ivar pairs: the instructions side by side; those of the new function alone when the
        shipped function is not at hand.
    :ivar shipped: whether it is.
    :ivar mismatches: what must not be.
    """

    name: str
    old: str
    why: str
    references: tuple[Reference, ...]
    pairs: tuple[Pair, ...]
    shipped: bool
    mismatches: tuple[Mismatch, ...]


class Explainer:
    """Explains the functions of one livepatch."""

    def __init__(self, subject: Subject) -> None:
        """Note the livepatch; refuse one without the kernel's symbols, or another kind of file."""
        if subject.kernel is None:
            raise KlpError("a kernel must be named", hint="--kernel RELEASE")
        if subject.elf.e_type != ET.REL:  # of another kind relocations may lead out of the file
            raise KlpError("is no module: it is not relocatable", where=subject.elf.name)
        if subject.elf.e_machine not in MACHINES:
            name = by_machine(subject.elf.e_machine).name
            raise KlpError(f"code of {name} cannot be explained", where=subject.elf.name)
        self.subject = subject
        self.memory = Memory(subject.kernel)
        self.livepatch: Loaded = self.memory.load(subject.elf, subject.name)
        self._compared: dict[tuple[str, PatchedFunction], tuple[Pair, ...]] = {}

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions that replace others."""
        patched = self.subject.patched or ()
        return tuple(f.new for p in patched for f in p.functions or () if f.new)

    def mismatches(self, owner: str, function: PatchedFunction) -> tuple[Mismatch, ...] | None:
        """Find where unchanged code leads elsewhere; None without the shipped function."""
        pairs = self.compare(owner, function)
        return None if pairs is None else self._mismatches(pairs)

    def compare(self, owner: str, function: PatchedFunction) -> tuple[Pair, ...] | None:
        """Compare a new function with the shipped one; None without that, or when both are long."""
        if (known := self._compared.get((owner, function))) is not None:
            return known
        old = self.memory.shipped(owner, function.old, function.sympos)
        if old is None or function.new_place is None:
            return None
        new = self.livepatch.function(*function.new_place, function.new)
        if len(old.data) * len(new.data) > _LONG:
            return None
        return self._compared.setdefault((owner, function), self._pairs(old, new))

    def explain(self, name: str) -> Explanation:
        """Explain one function.

        :param name: of a function of the livepatch, or of one that it replaces.
        :raises KlpError: when it has none of that name.
        """
        for patched in self.subject.patched or ():
            for function in patched.functions or ():
                if name in (function.new, function.old, f"{patched.object}:{function.old}"):
                    return self._replacement(patched.object, function)
        for symbol in self.subject.elf.symbol_list:
            if symbol.name == name and symbol.is_function and symbol.is_defined:
                return self._other(symbol)
        known = ", ".join(self.functions) or "none that its static tables show"
        raise KlpError(
            f"has no function {name!r}",
            where=self.subject.elf.name,
            why=did_you_mean(name, self.functions),
            hint=f"It patches: {known}.",
        )

    def _replacement(self, owner: str, function: PatchedFunction) -> Explanation:
        if function.new_place is None:
            raise KlpError(f"{function.old} has no new_func", where=self.subject.elf.name)
        section, offset = function.new_place
        new = self.livepatch.function(section, offset, function.new)
        old = self.memory.shipped(owner, function.old, function.sympos)
        why = f"replaces {function.old} of {owner}"
        why += f" at position {function.sympos}" if function.sympos else ""
        pairs = self.compare(owner, function) or self._pairs(old, new)
        return Explanation(
            function.new,
            f"{owner}:{function.old}",
            why,
            self._references(section, offset, len(new.data)),
            pairs,
            old is not None,
            self._mismatches(pairs),
        )

    def _other(self, symbol: Symbol) -> Explanation:
        new = self.livepatch.function(symbol.st_shndx, symbol.st_value, symbol.name)
        callers = [name for name in self.functions if symbol.name in self._named_by(name)]
        why = f"is called by {', '.join(callers)}" if callers else "belongs to the module itself"
        references = self._references(symbol.st_shndx, symbol.st_value, len(new.data))
        pairs = self._pairs(None, new)
        return Explanation(symbol.name, "", why, references, pairs, False, ())

    def _named_by(self, function: str) -> set[str]:
        symbol = next(s for s in self.subject.elf.symbol_list if s.name == function)
        code = self.livepatch.function(symbol.st_shndx, symbol.st_value, function)
        own = f"{self.subject.name}:"
        names = (i.target for i in disassemble(code, hex) if i.target is not None)
        return {self.memory.name_of(target).removeprefix(own) for target in names}

    def _name(self, address: int) -> str:
        """Name an address: a string of an object's own by its text."""
        loaded = self.memory.loaded.get(self.memory.owner_of(address))
        if loaded is not None:
            for index, start, end in loaded.strings:
                if start <= address < end:
                    return _quoted(bytes(loaded.contents[index][address - start :]))
        text = self._text_of_vmlinux(address)
        return text or self.memory.name_of(address)

    def _text_of_vmlinux(self, address: int) -> str:
        """Read the string at an address of vmlinux that no symbol begins at."""
        elf = self._vmlinux
        if elf is None or self.memory.owner_of(address) != VMLINUX:
            return ""
        rodata = elf.section(".rodata")
        if rodata is None or not rodata.sh_addr <= address < rodata.sh_addr + rodata.sh_size:
            return ""
        if "+" not in self.memory.name_of(address):
            return ""
        first = address - rodata.sh_addr
        piece = bytes(elf.contents(rodata)[first : first + 200])
        text = piece.partition(b"\0")[0]
        printable = text.strip().decode(errors="replace").isprintable() and text.isascii()
        return _quoted(piece) if len(text) > 1 and printable else ""

    @cached_property
    def _vmlinux(self) -> ElfFile | None:
        path = self.memory.kernel.kernel.vmlinux
        return ElfFile.read(path) if path else None

    def _pairs(self, old: Code | None, new: Code) -> tuple[Pair, ...]:
        after = disassemble(new, self._name)
        if old is None:
            return tuple(Pair(None, instruction) for instruction in after)
        before = disassemble(old, self._name)
        matcher = SequenceMatcher(
            None, [i.shape for i in before], [i.shape for i in after], autojunk=False
        )
        found: list[Pair] = []
        for kind, first, last, start, end in matcher.get_opcodes():
            if kind == "equal":
                found += [
                    Pair(o, n) for o, n in zip(before[first:last], after[start:end], strict=True)
                ]
            else:
                found += [Pair(instruction, None) for instruction in before[first:last]]
                found += [Pair(None, instruction) for instruction in after[start:end]]
        return tuple(found)

    def _mismatches(self, pairs: tuple[Pair, ...]) -> tuple[Mismatch, ...]:
        """Find unchanged references to a symbol of the same name at another address.

        An address that the old function refers to elsewhere is left alone: instructions
        may have been moved, and the wrong ones compared.
        """
        before = {pair.old.target for pair in pairs if pair.old}
        return tuple(
            Mismatch(pair, what)
            for pair in pairs
            if pair.old and pair.new and pair.new.target not in before
            if (what := self._mismatch(pair.old, pair.new))
        )

    def _mismatch(self, old: Instruction, new: Instruction) -> str:
        if old.target is None or new.target is None or old.target == new.target:
            return ""
        if self.memory.owner_of(new.target) == self.subject.name:
            return ""
        before, after = self.memory.name_of(old.target), self.memory.name_of(new.target)
        if before.rpartition(":")[2] != after.rpartition(":")[2]:
            return ""
        return f"{before} at {old.target:#x} became {after} at {new.target:#x}"

    def _references(self, section: int, offset: int, size: int) -> tuple[Reference, ...]:
        elf = self.subject.elf
        counts: dict[tuple[int, str], int] = {}
        for relocations, target in self.subject.relocation_sections:
            if target.index != section:
                continue
            rows = elf.relocations(relocations)
            inside = (rows["r_offset"] >= offset) & (rows["r_offset"] < offset + size)
            parsed = LivepatchSection.parse(relocations.name)
            gate = parsed.gate if parsed and relocations.sh_flags & SHF.RELA_LIVEPATCH else ""
            for index in rows["r_sym"][inside].tolist():
                counts[index, gate] = counts.get((index, gate), 0) + 1
        found = [self._reference(elf.symbol(i), gate, n) for (i, gate), n in counts.items()]
        return tuple(reference for reference in found if reference is not None)

    def _reference(self, symbol: Symbol, gate: str, count: int) -> Reference | None:
        if symbol.st_shndx == SHN_LIVEPATCH:
            return self._livepatch_reference(symbol, gate, count)
        if symbol.st_shndx != SHN_UNDEF:
            if not symbol.name or symbol.name.startswith(_LABEL):
                return None
            return Reference(symbol.name, _OWN, "it is defined in the livepatch", count)
        export = self.memory.kernel.exports.find(symbol.name)
        if export is None:
            return Reference(symbol.name, "nothing", "nobody exports it", count)
        address = self.memory.address(export.owner, symbol.name, 0)
        what = f"{export.owner}:{symbol.name}" + (f" at {address:#x}" if address else "")
        return Reference(symbol.name, what, "it is exported: an ordinary relocation", count)

    def _livepatch_reference(self, symbol: Symbol, gate: str, count: int) -> Reference:
        known = LivepatchSymbol.parse(symbol.name)
        if known is None:
            return Reference(symbol.name, "nothing", "the kernel cannot read its name", count)
        address = self.memory.address(known.owner, known.symbol, known.sympos)
        found = self.memory.database.in_object(known.owner, known.symbol)
        if address is None:
            return Reference(symbol.name, "nothing", "there is no such symbol", count)
        place = f" at {address:#x}" if known.owner == VMLINUX else ""
        file = found[max(known.sympos - 1, 0)].file
        what = f"{known.owner}:{known.symbol}{place}" + (f" of {file}" if file else "")
        number = f"number {known.sympos} of {len(found)}" if known.sympos else "the only one"
        when = "with the livepatch" if gate == VMLINUX else f"when {gate} is loaded"
        export = self.memory.kernel.exports.find(known.symbol)
        exported = export is not None and export.owner == known.owner
        word = "exported, but late" if exported else "not exported"
        return Reference(symbol.name, what, f"{word}: {number} of its name, resolved {when}", count)


def _quoted(data: bytes) -> str:
    text = data.partition(b"\0")[0].decode(errors="replace")
    shown = text if len(text) <= 40 else text[:39] + "…"
    return '"' + shown.encode("unicode_escape").decode().replace("\\u2026", "…") + '"'
