"""Check that the section of ``struct module`` leads to init_module() and cleanup_module()."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.information import is_livepatch
from klpbuild.check.rule import Effect
from klpbuild.check.structmodule import (
    EXIT,
    INIT,
    NAME,
    NAME_SIZE,
    THIS_MODULE,
    Entry,
    entries_of,
    name_in,
)
from klpbuild.check.subject import Subject
from klpbuild.elf.reader import Section

_POINTER = 8
#: Newer kernels refuse another size.
_SIZE = catalogue.MODULE_SIZE


def check_this_module(subject: Subject) -> None:
    """Check that the kernel will find the module's name, init and exit."""
    section = subject.elf.section(THIS_MODULE)
    if section is None:
        return
    _check_bytes(subject, section)
    places = subject.kernel.module_entries if subject.kernel else {}
    entries = {entry.offset: entry for entry in entries_of(subject.elf, section)}
    for name in (INIT, EXIT):
        _check_entry(subject, entries, name, places.get(name))
    for entry in entries.values():
        known = entry.offset in places.values() if places else entry.names & {INIT, EXIT}
        if not known:
            what = f"struct module has an address at {entry.offset:#x}, where none belongs"
            subject.find(catalogue.DAMAGED_MODULE, what, f"{THIS_MODULE}+{entry.offset:#x}")


def _check_bytes(subject: Subject, section: Section) -> None:
    wanted = subject.kernel.module_size if subject.kernel else None
    if wanted is not None and section.sh_size < wanted and not subject.applies(_SIZE):
        what = f"struct module has {section.sh_size} bytes, and the kernel reads {wanted}"
        subject.find(catalogue.DAMAGED_MODULE, what, THIS_MODULE)
    if name_in(subject.elf, section) is None:
        what = f"struct module has no name of less than {NAME_SIZE} bytes"
        subject.find(catalogue.DAMAGED_MODULE, what, f"{THIS_MODULE}+{NAME:#x}")
    data = bytearray(subject.elf.contents(section))
    # The loader sets the state and the list in front of the name itself.
    data[: NAME + NAME_SIZE] = bytes(NAME + NAME_SIZE)
    wrong = next((n for n, byte in enumerate(data) if byte), None)
    if wrong is not None:
        what = f"struct module is not zero at {wrong:#x}"
        subject.find(catalogue.DAMAGED_MODULE, what, f"{THIS_MODULE}+{wrong:#x}")


def _check_entry(subject: Subject, entries: dict[int, Entry], name: str, place: int | None) -> None:
    if place is None:
        found = [entry for entry in entries.values() if name in entry.names]
    else:
        found = [entry for entry in entries.values() if abs(entry.offset - place) < _POINTER]
    if not found and is_livepatch(subject):
        rule = catalogue.NO_EXIT if name == EXIT else catalogue.DAMAGED_MODULE
        subject.find(rule, f"struct module has no {name}()", THIS_MODULE, Effect.ACCEPTED)
    for entry in found:
        if place is not None and entry.offset != place:
            what = f"{name}() is expected at {place:#x} of struct module"
        elif not entry.absolute:
            what = f"struct module has no whole address of {name}()"
        elif name not in entry.names and (name in subject.pointers.names or not entry.names):
            led = " or ".join(sorted(entry.names)) or "no function's beginning"
            what = f"struct module leads to {led} instead of {name}()"
        else:
            continue
        subject.find(catalogue.DAMAGED_MODULE, what, f"{THIS_MODULE}+{entry.offset:#x}")
