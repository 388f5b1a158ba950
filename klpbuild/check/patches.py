"""Check what the livepatch patches, as klp_enable_patch() of kernel/livepatch/core.c does."""

from __future__ import annotations

import difflib

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.patched import Patched, PatchedFunction
from klpbuild.check.rule import Effect
from klpbuild.check.subject import Subject, is_livepatch_section, place
from klpbuild.check.tables import Tables
from klpbuild.names import (
    MODULE_NAME_MAX,
    VMLINUX,
    LivepatchSection,
    object_name,
    symbol_name_max,
)

#: Functions in which a task sleeps while it is neither patched nor unpatched.
_SWITCHING = frozenset({"__schedule", "context_switch", "__switch_to", "__switch_to_asm"})


#: Rules about what the tables say.
_OF_TABLES = (
    catalogue.OBJECT_NAME,
    catalogue.NO_FUNCTIONS,
    catalogue.DUPLICATE_OBJECT,
    catalogue.DUPLICATE_FUNCTION,
    catalogue.LONG_NAME,
    catalogue.OBJECT_UNKNOWN,
    catalogue.FUNCTION_NOT_FOUND,
    catalogue.FUNCTION_AMBIGUOUS,
    catalogue.FUNCTION_NO_POSITION,
    catalogue.NO_ENTRY,
    catalogue.STRAY,
    catalogue.LOAD_AGAIN,
    catalogue.SWITCHING,
    catalogue.ELSEWHERE,
    catalogue.INLINED,
    catalogue.THREAD,
)


def check_patches(subject: Subject) -> None:
    """Check the objects and functions of the static tables."""
    if subject.patched is None:
        if "livepatch" in subject.info:
            subject.find(catalogue.NO_TABLES, "has no static struct klp_patch of its own")
        for rule in _OF_TABLES:
            subject.not_checked(rule, "it has no static tables")
        return
    if subject.tables is not None:
        _check_tables(subject, subject.tables)
    seen: set[str] = set()
    for patched in subject.patched:
        if patched.object in seen:
            what = f"{patched.object} is listed twice"
            rule = catalogue.DUPLICATE_OBJECT
            subject.find(rule, what, patched.object, object=patched.object)
        seen.add(patched.object)
        _check_object(subject, patched)
        _check_functions(subject, patched)
    _check_load_again(subject, subject.patched)


def _check_tables(subject: Subject, tables: Tables) -> None:
    sections = subject.elf.sections
    for stray in tables.strays:
        where = place(sections[stray.place[0]], stray.place[1])
        rule = catalogue.NO_EFFECT if stray.harmless else catalogue.STRAY
        subject.find(rule, f"a table of the livepatch has {stray.what}", where)
    for word in tables.missing:
        strays = [stray for stray in tables.strays if not stray.harmless]
        effect = Effect.UNFORESEEN if strays else None
        where = place(sections[tables.place[0]], tables.place[1]) if tables.place[0] else ""
        subject.find(catalogue.NO_FUNCTIONS, f"struct klp_patch has no {word}", where, effect)


def _check_object(subject: Subject, patched: Patched) -> None:
    name = patched.object
    if patched.functions is None:
        what = f"{name} has no array of functions"
        subject.find(catalogue.NO_FUNCTIONS, what, name)
    if name == VMLINUX:
        return
    too_long = len(name.encode()) > MODULE_NAME_MAX
    if too_long or set(name) & set(".-/"):
        effect = Effect.REFUSED if too_long else None
        better = object_name(name).replace(".", "_")[:MODULE_NAME_MAX]
        what = f"no module can be called {name!r}"
        subject.find(catalogue.OBJECT_NAME, what, name, effect, better=better)
    elif subject.kernel and subject.kernel.database and name not in subject.kernel.modules:
        what = f"this kernel has no module {name}"
        near = difflib.get_close_matches(name, subject.kernel.modules, 1, 0.8)
        what += f"; did you mean {near[0]}?" if near else ""
        subject.find(catalogue.OBJECT_UNKNOWN, what, name)


def _check_functions(subject: Subject, patched: Patched) -> None:
    seen: set[tuple[str, int]] = set()
    for function in patched.functions or ():
        where = f"{patched.object}:{function.old}"
        if not function.old or function.new_place is None:
            missing = "new_func" if function.old else "old_name"
            what = f"{function.old or function.new} has no {missing}"
            subject.find(catalogue.NO_FUNCTIONS, what, where)
            continue
        if not function.new:
            what = f"new_func of {function.old} is not the beginning of a function"
            subject.find(catalogue.STRAY, what, where)
        key = function.old, max(function.sympos, 1)
        if key in seen:
            what = f"{function.old} of {patched.object} is listed twice"
            rule, name = catalogue.DUPLICATE_FUNCTION, patched.object
            subject.find(rule, what, where, symbol=key[0], position=key[1], object=name)
        seen.add(key)
        limit = symbol_name_max(subject.version or (6, 1))
        if len(function.old.encode()) > limit:
            what = f"the name has {len(function.old)} bytes, and the kernel looks up {limit}"
            subject.find(catalogue.LONG_NAME, what, where)
            continue
        if patched.object == VMLINUX and function.old in _SWITCHING:
            what = f"{function.old}() switches tasks"
            subject.find(catalogue.SWITCHING, what, where)
        if subject.kernel is not None and subject.kernel.database is not None:
            _check_old(subject, subject.kernel, patched.object, function, where)


def _check_old(
    subject: Subject, kernel: KernelSide, owner: str, function: PatchedFunction, where: str
) -> None:
    database, entries = kernel.database, kernel.entries
    if database is None or entries is None:
        return
    if owner not in database.objects:
        why = f"the symbols of {owner} are not at hand"
        for rule in (catalogue.FUNCTION_NOT_FOUND, catalogue.NO_ENTRY):
            subject.not_checked(rule, why, where)
        return
    found = database.in_object(owner, function.old)
    effect = Effect.REFUSED if owner == VMLINUX else Effect.LATE
    values: dict[str, object] = {
        "symbol": function.old,
        "object": "(null)" if owner == VMLINUX else owner,
        "position": function.sympos,
        "count": len(found),
    }
    called = f"{function.old} in {owner}"
    if not found:
        what = f"there is no {called}"
        subject.find(catalogue.FUNCTION_NOT_FOUND, what, where, effect, **values)
        return
    if function.sympos == 0 and len(found) > 1:
        what = f"there are {len(found)} {called}, and old_sympos is 0"
        subject.find(catalogue.FUNCTION_AMBIGUOUS, what, where, effect, **values)
        return
    if function.sympos > len(found):
        what = f"there are {len(found)} {called}, and old_sympos is {function.sympos}"
        values["object"] = owner
        subject.find(catalogue.FUNCTION_NO_POSITION, what, where, effect, **values)
        return
    has_entry = entries.has(owner, function.old, function.sympos)
    if has_entry is None:
        why = entries.why_unknown(owner, function.old, function.sympos)
        subject.not_checked(catalogue.NO_ENTRY, why, where)
    elif not has_entry:
        what = f"{called} has no ftrace entry"
        subject.find(catalogue.NO_ENTRY, what, where, effect, **values)
    if found[max(function.sympos - 1, 0)].unstable and owner != VMLINUX:
        what = f"{called} has another position once the module runs"
        subject.find(catalogue.POSITION_CHANGES, what, where)


def _check_load_again(subject: Subject, objects: tuple[Patched, ...]) -> None:
    kept = {p.object for p in objects if "post_unpatch" not in p.callbacks}
    for section, _ in subject.relocation_sections:
        name = LivepatchSection.parse(section.name) if is_livepatch_section(section) else None
        if name is None or name.gate == VMLINUX or name.gate not in kept or not section.sh_size:
            continue
        what = f"nothing clears {section.name} when {name.gate} is unloaded"
        subject.find(catalogue.LOAD_AGAIN, what, section.name, type="")
