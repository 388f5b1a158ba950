"""Assemble the extracted object: sections, symbols and relocations of all that was chosen.

Names and sections stay those of the patched object.  What the running kernel has becomes
an undefined symbol, and so does the address of a replaced function where it is kept or
compared.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cached_property

import numpy as np

from klpbuild.elf.constants import SHF, SHN_ABS, SHT, STB, STT
from klpbuild.elf.reader import Section, Symbol
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.correlate import Correlation
from klpbuild.extract.inclusion import CALL_KEY, TRAMPOLINE, Inclusion
from klpbuild.extract.landing import has_own_address
from klpbuild.extract.linkage import Origin
from klpbuild.extract.output import Output, OutputSymbol, from_table
from klpbuild.extract.result import KeyKind, KeyUse
from klpbuild.extract.result import Reference as UndefinedReference
from klpbuild.extract.returns import Returns
from klpbuild.extract.sections import RUNTIME_POINTER, SectionKind
from klpbuild.extract.special import Entry, Tables
from klpbuild.extract.written import write_words

_OWN_SECTION = (".text.", ".text.unlikely.", ".text.hot.", ".altinstr", ".static_call.")
#: objtool takes the instruction before such an address for one that does not come back.
_UNREACHABLE = ".discard.unreachable"
_KEY_OFF = "klpbuild_key_off"
#: Bits of a jump label's key that are not part of its address: the branch that is likely,
#: and that objtool makes the jump a no-operation (arch/x86/include/asm/jump_label.h).
_KEY_FLAGS = 3


def assemble(
    correlation: Correlation, chosen: Inclusion, tables: Tables, source_file: str
) -> tuple[ElfObject, tuple[UndefinedReference, ...], dict[Atom, str]]:
    """Write the extracted object.

    :param tables: those of the patched object.
    :param source_file: name for the STT_FILE symbol.
    :returns: the object, its undefined symbols, and the section of each included atom.
    """
    assembly = Assembly(correlation, chosen, tables, source_file)
    assembly.place_atoms()
    assembly.write_atoms()
    assembly.write_tables()
    write_words(assembly)
    assembly.name_call_keys()
    assembly.write_namespaces()
    assembly.finish()
    sections = {atom: output.section.name for atom, (output, _) in assembly.places.items()}
    return assembly.object, assembly.references(), sections


class Assembly:
    """State of an object that is being written."""

    def __init__(
        self, correlation: Correlation, chosen: Inclusion, tables: Tables, source_file: str
    ) -> None:
        self.correlation, self.chosen, self.tables = correlation, chosen, tables
        self.original, self.patched = correlation.original, correlation.patched
        elf = self.patched.elf
        self.object = ElfObject(elf.e_machine, elf.order, elf.e_flags, bytes(elf.data[:16]))
        self.outputs: list[Output] = []
        self.places: dict[Atom, tuple[Output, int]] = {}
        self.locals: list[OutputSymbol] = [OutputSymbol(source_file, STB.LOCAL, STT.FILE, SHN_ABS)]
        self.globals: list[OutputSymbol] = []
        self.by_name: dict[Atom, dict[str, OutputSymbol]] = defaultdict(dict)
        self.literals: dict[tuple[str, bytes], OutputSymbol] = {}
        self.literal_outputs: dict[str, Output] = {}
        self.entries: dict[tuple[int, int], OutputSymbol] = {}
        self.undefined: dict[object, tuple[OutputSymbol, UndefinedReference]] = {}
        self.addresses: set[object] = set()
        self.names: set[str] = set()
        self.returns = Returns(self.patched)
        self._off: OutputSymbol | None = None
        self.call_uses = {
            key.name: use for key, use in chosen.keys.items() if key.kind is KeyKind.STATIC_CALL
        }

    # -- places

    def output(self, like: Section, name: str = "", link: int = 0) -> Output:
        """Add a section like one of the patched object."""
        flags = like.sh_flags & ~(SHF.GROUP | SHF.INFO_LINK)
        section = WritableSection(
            name or like.name,
            like.sh_type,
            flags,
            sh_link=link,
            sh_addralign=like.sh_addralign,
            sh_entsize=like.sh_entsize,
        )
        index = self.object.add_section(section)
        symbol = OutputSymbol("", STB.LOCAL, STT.SECTION, index)
        output = Output(section, index, symbol)
        self.outputs.append(output)
        return output

    def place_atoms(self) -> None:
        """Assign every included atom its place and its symbols."""
        shared: dict[int, Output] = {}
        for atom in sorted(self.chosen.atoms, key=lambda a: a.index):
            if atom.is_function and not atom.section.name.startswith(_OWN_SECTION):
                # .sched.text, .exit.text: here it is ordinary code
                output = self.output(atom.section, f".text.{atom.name}")
            else:
                known = shared.get(atom.section.index)
                output = known if known is not None else self.output(atom.section)
                shared[atom.section.index] = output
            offset = output.place(len(atom), atom.start)
            self.places[atom] = output, offset - atom.start
            is_new = self.correlation.is_new(atom)
            for symbol in atom.symbols:
                self._define(atom, symbol, output, offset - atom.start, is_new)

    def _define(self, atom: Atom, symbol: Symbol, output: Output, delta: int, is_new: bool) -> None:
        # a replaced global becomes local, else others would bind to it before it is in use
        bind = symbol.bind if is_new else STB.LOCAL
        value, size, other = symbol.st_value + delta, symbol.st_size, symbol.st_other
        made = OutputSymbol(symbol.name, bind, symbol.type, output.index, value, size, other)
        (self.locals if bind == STB.LOCAL else self.globals).append(made)
        self.by_name[atom][symbol.name] = made
        self.names.add(symbol.name)

    # -- contents

    def write_atoms(self) -> None:
        """Copy bytes and relocations of the included atoms."""
        for atom, (output, delta) in self.places.items():
            start = atom.start + delta
            output.data[start : start + len(atom)] = self.patched.contents(atom)
            for reference in self.patched.references(atom):
                symbol, addend = self.bind(atom, reference, is_entry=False)
                output.relocations.append(
                    (start + reference.offset, reference.type, symbol, addend)
                )

    def define(self, name: str, output: Output, size: int) -> None:
        """Define a variable that is the content of a section."""
        self.locals.append(OutputSymbol(name, STB.LOCAL, STT.OBJECT, output.index, 0, size))

    def write_tables(self) -> None:
        """Copy the entries of the included code, in the tables' own order."""
        # a table in link order belongs to one section of code, though GCC 12 makes only one
        groups: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        for atom, (output, delta) in self.places.items():
            for entry in self.tables.of(atom):
                if entry.section.name.startswith(RUNTIME_POINTER):
                    self._load_constant(entry, output, entry.place + delta)
                    continue
                linked = entry.section.sh_flags & SHF.LINK_ORDER
                groups[entry.section.index, output.index if linked else 0].append(entry)
        for (index, link), entries in sorted(groups.items()):
            output = self.output(self.patched.elf.sections[index], link=link)
            for entry in sorted(entries, key=lambda e: e.offset):
                self._write_entry(entry, output)
        if self.patched.instructions.has_objtool:
            self._mark_dead_ends()

    def _write_entry(self, entry: Entry, output: Output) -> None:
        assert entry.owner is not None
        offset = len(output.data)
        if used := self.entries.get((entry.section.index, entry.offset)):
            used.section, used.value = output.index, offset
        output.data += self.tables.contents(entry).ljust(self._stride(entry), b"\0")
        for reference in entry.references:
            is_key = reference.offset == self.patched.sizes.jump_key
            if is_key and entry in self.chosen.detached:
                symbol, addend = self._key_that_is_off(), reference.addend & _KEY_FLAGS
            else:
                symbol, addend = self.bind(entry.owner, reference, is_entry=True)
            output.relocations.append((offset + reference.offset, reference.type, symbol, addend))

    def _load_constant(self, entry: Entry, output: Output, field: int) -> None:
        """Replace a constant that the kernel writes into its code by a load of its variable.

        The kernel does that for vmlinux only; modules load the variable too
        (arch/x86/include/asm/runtime-const.h).
        """
        load = self.patched.instructions.as_load(bytes(output.data), field)
        if load is None:
            raise ValueError(f"no constant at {output.section.name}+{field:#x}")
        output.data[field - 2 : field - 2 + len(load)] = load
        name = entry.section.name.removeprefix(RUNTIME_POINTER)
        known = (s for s in self.original.elf.symbol_list if s.name == name)
        original = next(known, None)
        like = original or self.patched.elf.symbol_list[0]
        symbol = self.undefined_symbol(name, original, like)
        output.relocations.append((field + 1, self.patched.instructions.relative, symbol, -4))

    def _key_that_is_off(self) -> OutputSymbol:
        """Add a static key that nobody enables, like DEFINE_STATIC_KEY_FALSE: all zeros."""
        if self._off is None:
            size = self.patched.sizes.static_key or 0
            flags = SHF.ALLOC | SHF.WRITE
            section = Section(0, f".bss.{_KEY_OFF}", SHT.NOBITS, flags, 0, 0, 0, 0, 0, 8, 0)
            output = self.output(section)
            output.place(size)
            self._off = OutputSymbol(_KEY_OFF, STB.LOCAL, STT.OBJECT, output.index, 0, size)
            self.locals.append(self._off)
        return self._off

    def _stride(self, entry: Entry) -> int:
        size = self.patched.sizes.paravirt_patch_site
        return size if entry.section.name == ".parainstructions" and size else entry.size

    # -- references

    def bind(self, atom: Atom, reference: Reference, is_entry: bool) -> tuple[OutputSymbol, int]:
        """Choose symbol and addend for a reference, in the output.

        :param is_entry: whether a table entry makes it, which is always about the code
            at hand.
        """
        return from_table(self, atom, reference, *self._bind(atom, reference, is_entry))

    def _bind(self, atom: Atom, reference: Reference, is_entry: bool) -> tuple[OutputSymbol, int]:
        target = reference.target
        if isinstance(target, Literal):
            return self._literal(target), reference.addend
        named = self.patched.elf.symbol_list[reference.symbol]
        is_address = not is_entry and not self.patched.is_branch(atom, reference)
        if target is None:
            bound = self.correlation.ties.bound.get(named.name)
            original = self._globals_of_original.get(named.name)
            if bound is not None:
                made = self._foreign(bound, named, is_address=is_address)
            else:
                made = self.undefined_symbol(named.name, original, named, is_address=is_address)
            return made, reference.addend
        is_kept = is_address and self._is_kept_address(atom, reference, target)
        if target in self.places and not is_kept:
            output, delta = self.places[target]
            known = self.by_name[target].get(named.name) if named.type != STT.SECTION else None
            if known is not None:
                return known, reference.addend + target.entry - named.st_value
            return output.symbol, reference.addend + target.entry + delta
        pointer = target in self.places
        for origin in self.correlation.origins(target):
            return self._foreign(origin, named, pointer, is_address), reference.addend
        twin = self.correlation.to_original[target]
        symbol = next((s for s in twin.symbols if s.name == named.name), twin.symbols[0])
        addend = reference.addend + twin.entry - symbol.st_value
        return self.undefined_symbol(symbol.name, symbol, named, pointer, is_address), addend

    def _is_kept_address(self, atom: Atom, reference: Reference, target: Atom) -> bool:
        """Tell whether a function's address must stay that of the kernel's, replaced version."""
        if self.correlation.is_new(target) or not target.is_function or target.is_cold:
            return False
        if has_own_address(self.correlation, target):
            return False  # taken for the first time: there is none to keep or to compare
        bias = 0
        if atom.kind is SectionKind.CODE and reference.type in self.patched.instructions.counted:
            bias = -self.patched.instructions.behind
        return reference.addend == bias

    @cached_property
    def _globals_of_original(self) -> dict[str, Symbol]:
        return {s.name: s for s in self.original.elf.symbol_list if not s.is_local}

    def _foreign(
        self, origin: Origin, like: Symbol, pointer: bool = False, is_address: bool = False
    ) -> OutputSymbol:
        """Add a symbol that the kernel has in another object of the patch, or had in this one."""
        if origin.part == self.correlation.number:
            return self.undefined_symbol(origin.name, origin.symbol, like, pointer, is_address)
        return self.undefined_symbol(origin.name, origin.symbol, like, pointer, is_address, origin)

    def undefined_symbol(
        self,
        name: str,
        original: Symbol | None,
        like: Symbol,
        pointer: bool = False,
        is_address: bool = False,
        origin: Origin | None = None,
    ) -> OutputSymbol:
        """Add an undefined symbol of the kernel; see `klpbuild.extract.result.Reference`."""
        part = origin.part if origin is not None else None
        key = (part, original.index if original is not None else name)
        if is_address:
            self.addresses.add(key)
        found = self.undefined.get(key)
        if found is None:
            unique = name
            use = self.call_uses.get(CALL_KEY + name.removeprefix(TRAMPOLINE))
            is_detached = name.startswith(TRAMPOLINE) and use is KeyUse.DETACHED
            # objtool makes a static call site of every call of __SCT__*
            while unique in self.names or (is_detached and unique == name):
                unique = f"original.{unique}"
            self.names.add(unique)
            weak = like.st_shndx == 0 and like.bind == STB.WEAK
            symbol = OutputSymbol(unique, STB.WEAK if weak else STB.GLOBAL, STT.NOTYPE, 0)
            reference = UndefinedReference(
                unique,
                name,
                original.index if original is not None else None,
                original is not None and original.is_defined,
                original is not None and original.is_defined and original.is_local,
                pointer,
                is_address,
                origin,
            )
            found = self.undefined[key] = symbol, reference
            self.globals.append(symbol)
        return found[0]

    def _literal(self, literal: Literal) -> OutputSymbol:
        section = self.patched.elf.sections[literal.section]
        if literal.entry >= 0:  # its place comes when it is written
            made = OutputSymbol(f".LE{literal.entry}", STB.LOCAL, STT.NOTYPE, 0)
            return self.entries.setdefault((literal.section, literal.entry), made)
        key = section.name, literal.content
        if key not in self.literals:
            output = self.literal_outputs.get(section.name)
            if output is None:
                output = self.literal_outputs[section.name] = self.output(section)
            offset = output.place(len(literal.content))
            output.data[offset : offset + len(literal.content)] = literal.content
            name = f".LC{len(self.literals)}"
            symbol = OutputSymbol(name, STB.LOCAL, STT.NOTYPE, output.index, offset)
            self.locals.append(symbol)
            self.literals[key] = symbol
        return self.literals[key]

    # -- what objtool must know

    def name_call_keys(self) -> None:
        """Add references to the keys of static calls: objtool looks them up by name."""
        mentioned = {s.name: s for s in self.patched.elf.symbol_list}
        for key, use in self.chosen.keys.items():
            name = key.name
            if key.kind is KeyKind.STATIC_CALL and use is KeyUse.SWITCHED and name in mentioned:
                self.undefined_symbol(name, self._globals_of_original.get(name), mentioned[name])

    def _mark_dead_ends(self) -> None:
        """Mark calls that do not return for objtool: it can no longer read the called function."""
        found: list[tuple[Output, int]] = []
        for atom, (output, delta) in self.places.items():
            if atom.kind is not SectionKind.CODE:
                continue
            for reference in self.patched.references(atom):
                target = reference.target
                if not isinstance(target, Atom) or target in self.places or not target.is_function:
                    continue
                field_at = atom.start + reference.offset
                code = self.patched.contents(atom)
                is_call = self.patched.instructions.is_call_field(code, reference.offset)
                if is_call and not self.returns.comes_back(target):
                    found.append((output, field_at + 4 + delta))
        if found:
            like = Section(0, _UNREACHABLE, SHT.PROGBITS, 0, 0, 0, 0, 0, 0, 1, 0)
            hints = next((o for o in self.outputs if o.section.name == _UNREACHABLE), None)
            hints, relative = hints or self.output(like), self.patched.instructions.relative
            for output, place in found:
                offset = len(hints.data)
                hints.data += bytes(4)
                hints.relocations.append((offset, relative, output.symbol, place))

    # -- the rest

    def write_namespaces(self) -> None:
        """Copy the export namespaces that the object imports."""
        for section in self.patched.elf.sections:
            if section.name == ".modinfo":
                texts = bytes(self.patched.elf.contents(section)).split(b"\0")
                kept = [text for text in texts if text.startswith(b"import_ns=")]
                if kept:
                    self.output(section).data += b"".join(text + b"\0" for text in kept)

    def finish(self) -> None:
        """Assign symbol indexes, and put relocations and bytes into their sections."""
        add = self.object.add_symbol
        assert all(entry.section for entry in self.entries.values())
        own = (output.symbol for output in self.outputs)
        symbols = [*self.locals[:1], *own, *self.locals[1:], *self.entries.values()]
        for symbol in [*symbols, *self.globals]:
            symbol.index = add(
                symbol.name,
                bind=symbol.bind,
                type=symbol.type,
                st_shndx=symbol.section,
                st_value=symbol.value,
                st_size=symbol.size,
                st_other=symbol.other,
            )
        dtype = rela_dtype(self.object.order)
        for output in self.outputs:
            if output.section.sh_type == SHT.NOBITS:
                output.section.nobits_size = len(output.data)
            else:
                output.section.data = bytes(output.data)
            if output.relocations:
                rows = np.zeros(len(output.relocations), dtype)
                for row, (offset, type_, symbol, addend) in zip(
                    rows, output.relocations, strict=True
                ):
                    row["r_offset"], row["r_type"] = offset, type_
                    row["r_sym"], row["r_addend"] = symbol.index, addend
                name = f".rela{output.section.name}"
                self.object.add_relocations(name, output.index, rows, SHF.INFO_LINK)
        self.object.add_section(WritableSection(".note.GNU-stack", SHT.PROGBITS))

    def references(self) -> tuple[UndefinedReference, ...]:
        """List the undefined symbols, in the order of the symbol table."""
        return tuple(
            replace(reference, is_address=key in self.addresses)
            for key, (_, reference) in self.undefined.items()
        )
