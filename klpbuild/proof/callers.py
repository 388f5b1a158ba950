"""Find what refers to a function in the shipped kernel: its callers, and pointers to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.names import source_name
from klpbuild.extract.sections import is_exit, is_init
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.proof.shipped import SECTION_SHIFT, ShippedBinary

#: What code takes addresses from.
_GOT = ".got"
#: Reason against callers that would go on calling the kernel's own function.
_NOT_REACHED = "They call the kernel's own as it was, so that the change does not reach them."


def check_callers(
    kernel: Kernel,
    owner: str,
    name: str,
    where: str,
    replaced: Mapping[str, Collection[int]],
    is_known: Callable[[str], bool] = lambda user: False,
    why: str = _NOT_REACHED,
) -> None:
    """Check that all that refers to a global function in the kernel is replaced.

    :param owner: vmlinux or the module that defines it.
    :param where: where it is declared otherwise, for messages.
    :param replaced: by object the places of the functions that the livepatch replaces, as
        `klpbuild.proof.shipped` counts them.
    :param is_known: whether another function of a name calls it rightly.
    :param why: what is wrong with the others.
    :raises KlpError: with the others.
    """
    users = (*_users_in_vmlinux(kernel, owner, name), *_users_in_modules(kernel, owner, name))
    others = sorted(
        {f"{u} of {o}" for o, u, at in users if at not in replaced.get(o, ()) and not is_known(u)}
    )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise KlpError(
            f"{name}() is declared otherwise, and not all that uses it changes: "
            f"{', '.join(others[:3])}{more}",
            where=where,
            why=why,
            hint="Change its callers in the same patch, or add a function of another name.",
        )


def _users_in_vmlinux(kernel: Kernel, owner: str, name: str) -> Iterator[tuple[str, str, int]]:
    """Find object, function and place of what refers to a function of vmlinux.

    vmlinux keeps no relocations but those by which it moves: whatever may lead to the function
    is taken for a reference.  Short jumps are left to the comparison of their object.
    """
    if owner != VMLINUX or kernel.vmlinux is None:
        return
    shipped = ShippedBinary.read(kernel.vmlinux)
    place = next((s.place for s in shipped.named(name) if s.is_global), None)
    if place is None:
        return
    sites = [at for at, value in shipped.relocated.items() if value == place]
    sections = [
        section
        for section in shipped.elf.sections
        if section.sh_flags & SHF.ALLOC
        and section.sh_type == SHT.PROGBITS
        and not _has_run(section.name)
    ]
    entries: list[int] = []
    for section in (s for s in sections if not s.sh_flags & SHF.EXECINSTR):
        words = shipped.elf.contents(section)[: section.sh_size // 8 * 8]
        held = np.flatnonzero(np.frombuffer(words, f"{shipped.elf.order}u8") == np.uint64(place))
        found = entries if section.name == _GOT else sites
        found += [section.sh_addr + 8 * index for index in held.tolist()]
    code = shipped.arch.decoded(shipped.elf.name)
    for section in (s for s in sections if s.sh_flags & SHF.EXECINSTR):
        data, start = bytes(shipped.elf.contents(section)), section.sh_addr
        for each in (place, *entries):
            sites += [start + offset for offset in code.leading(data, start, each)]
    for site in sites:
        yield from _function(shipped.elf, VMLINUX, site, site, None, name)


def _has_run(section: str) -> bool:
    return is_init(section) or is_exit(section)


def _users_in_modules(kernel: Kernel, owner: str, name: str) -> Iterator[tuple[str, str, int]]:
    """Find object, function and place of what refers to it in the modules."""
    wanted = b"\0%b\0" % name.encode()
    for path in kernel.modules:
        elf = ElfFile.read(path)
        module = object_name(path.name)
        if wanted not in elf.strtab:
            continue
        indexes = [
            s.index
            for s in elf.symbol_list
            if s.name == name and not s.is_local and s.is_defined is (module == owner)
        ]
        for table in elf.relocation_sections:
            section = elf.sections[table.sh_info]
            if not section.sh_flags & SHF.ALLOC or section.name.startswith("__ksymtab"):
                continue
            rows = elf.relocations(table)
            rows = rows[np.isin(rows["r_sym"], indexes)]
            for offset in rows["r_offset"].tolist():
                site = (section.index << SECTION_SHIFT) + offset
                yield from _function(elf, module, site, offset, section.index, name)


def _function(
    elf: ElfFile, owner: str, site: int, value: int, section: int | None, name: str
) -> Iterator[tuple[str, str, int]]:
    """Find the function, or the variable, around a place; not the one that is looked for."""
    rows = elf.symbols
    place = np.uint64(value)
    covers = (rows["st_value"] <= place) & (rows["st_value"] + rows["st_size"] > place)
    if section is not None:
        covers &= rows["st_shndx"] == section
    found = [elf.symbol(i) for i in np.flatnonzero(covers).tolist()]
    named = [s for s in found if s.type in (STT.FUNC, STT.OBJECT)]
    if not named:
        yield owner, f"code at {site:#x}", site
    for symbol in named[:1]:
        if source_name(symbol.name) != name:
            start = symbol.st_value + (0 if section is None else section << SECTION_SHIFT)
            yield owner, symbol.name, start
