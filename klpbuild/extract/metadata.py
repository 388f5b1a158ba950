"""Leave out table entries that only the build, the boot or the module loader reads.

Whatever of a patch is not taken over is refused, or said: nothing is left out without a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable

from klpbuild.elf.constants import SHT
from klpbuild.extract.atoms import Atom
from klpbuild.extract.case import Case
from klpbuild.extract.correlate import Identities
from klpbuild.extract.names import base_name
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import (
    OF_KASAN,
    READ_BY_OBJTOOL,
    SectionKind,
    holds_variables,
    is_exit,
    is_init,
)

_WAS_READ = "The kernel has read it when it or the module started."
_DO_IT = "Do from a callback of the livepatch what its new entries ask for."
#: Entries without which code of the livepatch would not work, or that boot code reads.
_NEEDED = re.compile(r"___srcu_struct_ptrs|__\w+_of_table|\.apicdrivers")
#: Entries that come with others, or that only tools read.
_NO_WORD = re.compile(
    r"__ksymtab_strings|_{2,3}k?crctab|\.export_symbol|\.modinfo|\.printk_index|\.exitcall"
    r"|__modver|\.static_call_tramp_key|\.gnu\."
)
_WHAT = {"___ksymtab": "a new export", "__param": "a new module parameter",
         "_ftrace_events": "a new trace event", "__syscalls_metadata": "a new system call",
         "_kprobe_blacklist": "NOKPROBE_SYMBOL()",
         "_error_injection_whitelist": "ALLOW_ERROR_INJECTION()"}  # fmt: skip
#: What the linker or tools write or read, and no code.
_TOOLS = re.compile(r"\.(debug|comment|note\.(GNU-stack|gnu)|BTF|llvm|stab|gnu)")
_TABLES_OF_ELF = frozenset(
    (SHT.NULL, SHT.SYMTAB, SHT.STRTAB, SHT.RELA, SHT.REL, SHT.GROUP, SHT.SYMTAB_SHNDX)
)
_KPATCH = re.compile(r"\.kpatch\.(?:callbacks\.(?P<when>\w+)|(?P<other>\w+))")
_KPATCH_HINTS = {
    "force": "Take KPATCH_FORCE_UNSAFE out: the kernel itself waits until no task runs the old"
    " function.\nIf that is a kernel thread's, accept_threads names it.",
    "ignore": "Take it out, and the change that it would have ignored.",
}


def look_at_metadata(case: Case, included: Collection[Atom]) -> None:
    """Refuse new entries of tables that the kernel has read; mention those without effect.

    :param included: what the livepatch takes from the patched object.
    """
    for atom in case.patched.atoms:
        if atom.kind is SectionKind.METADATA and atom.symbols and case.twin(atom) is None:
            _look_at_entry(case, atom)
    _look_at_information(case)
    _look_at_tables(case, included)
    _look_at_named_entries(case, included)
    _look_at_unread_sections(case)
    for atom in case.patched.atoms:
        if atom not in included and _is_left_out(case, atom):
            case.notices.append(
                f"{case.place(atom)}: is new, and nothing that runs uses it; left out"
            )


def _look_at_entry(case: Case, atom: Atom) -> None:
    name = atom.section.name
    if atom.name.removeprefix("__ksymtab_") in case.correlation.ties.moved:
        return  # the kernel exports it
    if is_init(name):
        case.refuse(
            f"{atom.name} is new in {name}",
            atom,
            why="The kernel or the module has started, and will not run it.",
            hint="Call it from a callback of the livepatch.",
        )
    elif _NEEDED.match(name):
        case.refuse(f"{atom.name} is new in {name}", atom, why=_WAS_READ, hint=_DO_IT)
    elif not _NO_WORD.match(name):
        what = next((what for start, what in _WHAT.items() if name.startswith(start)), "")
        what = what or f"a new entry in {name}"
        case.notices.append(f"{case.place(atom)}: {what} has no effect in a livepatch")


def _look_at_information(case: Case) -> None:
    """Report new texts of ``.modinfo``, but for namespaces, which the livepatch takes over."""
    before, after = (_information(code) for code in (case.original, case.patched))
    for text in sorted(after - before):
        tag = text.partition(b"=")[0].rpartition(b".")[2]
        if tag not in (b"import_ns", b"parm", b"parmtype"):
            shown = ascii(text.decode(errors="replace"))[1:-1]
            case.notices.append(
                f"{case.where}: new module information has no effect in a livepatch: {shown}"
            )


def _information(code: CodeObject) -> set[bytes]:
    section = code.elf.section(".modinfo")
    return set(bytes(code.elf.contents(section)).split(b"\0")) if section else set()


def _look_at_tables(case: Case, included: Collection[Atom]) -> None:
    """Refuse changes of tables whose entries have no names."""
    identities = Identities(case.correlation)
    before, after = (_collected(code, False) for code in (case.original, case.patched))
    for name in dict.fromkeys((*after, *before)):
        if _changes_code(case, after[name], included):
            continue
        olds = [identities.of_original(old) for old in before[name]]
        if olds != [identities.of_patched(atom) for atom in after[name]]:
            case.refuse(f"table {name} changed", why=_WAS_READ, hint=_DO_IT)


def _collected(code: CodeObject, named: bool) -> dict[str, list[Atom]]:
    """Collect what is in sections that hold no variables: entries for something to read."""
    found: dict[str, list[Atom]] = defaultdict(list)
    for atom in code.atoms:
        name = atom.section.name
        is_entry = atom.kind is SectionKind.DATA and not holds_variables(name)
        if is_entry and bool(atom.symbols) is named:
            found[name].append(atom)
    return found


def _changes_code(case: Case, atoms: list[Atom], included: Collection[Atom]) -> bool:
    """Refuse a table that leads into the middle of included functions: to change them."""
    found = False
    for reference in (r for atom in atoms for r in case.patched.references(atom)):
        target = reference.target
        if (
            isinstance(target, Atom)
            and target.kind is SectionKind.CODE
            and target in included
            and reference.addend
        ):
            case.refuse(
                f"table {atoms[0].section.name} has an entry for it that klpbuild does not know",
                target,
                why="The kernel changes the code that such a table names, at boot or when a"
                " module is loaded.",
            )
            found = True
    return found


def _look_at_named_entries(case: Case, included: Collection[Atom]) -> None:
    """Refuse variables that come to, or go from, a section that holds entries for others."""
    identities = Identities(case.correlation)
    before, after = (_collected(code, True) for code in (case.original, case.patched))
    for name in dict.fromkeys((*after, *before)):
        if is_init(name) or is_exit(name):
            continue  # what uses these is changed start code, which is refused
        news = [a for a in after[name] if case.twin(a) is None and a not in included]
        olds = [a for a in before[name] if a not in case.correlation.to_patched]
        come = _without_equals(news, identities.of_patched, olds, identities.of_original)
        gone = _without_equals(olds, identities.of_original, news, identities.of_patched)
        for atom, how in (*((a, "is new in") for a in come), *((a, "goes from") for a in gone)):
            case.refuse(
                f"{atom.name} {how} {name}",
                atom,
                why="Something may collect the entries of this section, and a livepatch comes too"
                " late.",
                hint=_hint(case, atom),
            )


def _without_equals(
    atoms: list[Atom],
    identity: Callable[[Atom, bool], Hashable],
    others: list[Atom],
    other_identity: Callable[[Atom, bool], Hashable],
) -> list[Atom]:
    """Select the atoms for which there is no other one with the same name and content."""
    there = Counter((base_name(a.name), other_identity(a, True)) for a in others)
    found = []
    for atom in atoms:
        key = base_name(atom.name), identity(atom, True)
        there[key] -= 1
        if there[key] < 0:
            found.append(atom)
    return found


def _hint(case: Case, atom: Atom) -> str:
    """Advise what to do instead; kpatch's macros (kpatch-macros.h) have counterparts here."""
    kpatch = _KPATCH.match(atom.section.name)
    if kpatch is None:
        return "Do from a callback of the livepatch what the entry asks for."
    if not kpatch["when"]:
        return _KPATCH_HINTS.get(kpatch["other"], "klpbuild does not read kpatch's macros.")
    targets = [reference.target for reference in case.patched.references(atom)]
    names = [target.name for target in targets if isinstance(target, Atom) and target.is_function]
    name = names[0] if names else "NAME"
    return (
        f"Take kpatch's macro out, make {name}() a global function, and say in livepatch.toml:\n"
        f'callbacks = {{ {kpatch["when"]} = "{name}" }}'
    )


def _look_at_unread_sections(case: Case) -> None:
    """Refuse changes of sections that are neither code nor data, and that no tool is known for."""
    before, after = (_unread_sections(code) for code in (case.original, case.patched))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            case.refuse(
                f"section {name} changed",
                why="klpbuild does not know what reads it, and leaves it out.",
                hint="Take its new entries out of the patch.",
            )


def _unread_sections(code: CodeObject) -> dict[str, list[Hashable]]:
    """Collect the content of the sections that nothing is taken from, by name."""
    found: dict[str, list[Hashable]] = defaultdict(list)
    places = {}
    for section, kind in zip(code.elf.sections, code.kinds, strict=True):
        unknown = section.name.startswith(".discard.") and section.name not in READ_BY_OBJTOOL
        if kind is not SectionKind.DROPPED and not unknown:
            continue
        is_read = _TOOLS.match(section.name) or OF_KASAN.search(section.name)
        if section.sh_type not in _TABLES_OF_ELF and not is_read:
            places[section.index] = found[section.name]
            found[section.name].append(bytes(code.elf.contents(section)))
    for relocations in code.elf.relocation_sections:
        if relocations.sh_info not in places:
            continue
        for row in code.elf.relocations(relocations):
            symbol = code.elf.symbol_list[int(row["r_sym"])]
            name = symbol.name or code.elf.sections[symbol.st_shndx].name
            aim = int(row["r_offset"]), int(row["r_type"]), base_name(name), int(row["r_addend"])
            places[relocations.sh_info].append(aim)
    return found


def _is_left_out(case: Case, atom: Atom) -> bool:
    """Tell whether a new function or variable that the compiler kept is not in the livepatch."""
    name = atom.section.name
    return (
        bool(atom.symbols)
        and case.correlation.is_new(atom)
        and (atom.kind is SectionKind.CODE or holds_variables(name))
        and atom.kind in (SectionKind.CODE, SectionKind.DATA)
        and not (is_init(name) or is_exit(name))
        and "." not in atom.name
        and not atom.is_special_static
        and base_name(atom.name) == atom.name
    )
