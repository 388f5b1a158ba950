"""Check ordinary symbols as simplify_symbols() and resolve_symbol() of kernel/module/main.c do."""

from __future__ import annotations

import struct

import numpy as np

from klpbuild.check import catalogue
from klpbuild.check.information import ENABLE, is_gpl
from klpbuild.check.kernelside import KernelSide, found_section
from klpbuild.check.rule import Effect
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import (
    EM,
    SHN_ABS,
    SHN_COMMON,
    SHN_LIVEPATCH,
    SHN_LORESERVE,
    SHN_UNDEF,
    STB,
)
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import string_at
from klpbuild.names import SYMBOL_PREFIX, VMLINUX, object_name
from klpbuild.symbols.symvers import Export

#: struct modversion_info: an unsigned long and 56 bytes of name.
_VERSION_SIZE = 64
_LAYOUT = "module_layout"
#: ignore_undef_symbol() of kernel/module/main.c.
_IGNORED = "_GLOBAL_OFFSET_TABLE_"
#: dedotify() of arch/powerpc/kernel/module_64.c gives it a value.
_TOC = ".TOC."


def check_symbols(subject: Subject) -> None:
    """Check every symbol that is not livepatch's."""
    elf = subject.elf
    places = elf.symbols["st_shndx"]
    for number in np.flatnonzero(places == SHN_COMMON).tolist():
        name = elf.symbol_name(number)
        if not name.startswith("__gnu_lto"):
            subject.find(catalogue.COMMON, f"symbol {name} is common", name)
    reserved = (places >= SHN_LORESERVE) & ~np.isin(places, (SHN_ABS, SHN_COMMON, SHN_LIVEPATCH))
    for number in np.flatnonzero(reserved).tolist():
        name, place = elf.symbol_name(number), int(places[number])
        what = f"symbol {name} is in section {place:#x}"
        rule, last = catalogue.SECTION_INDEX, len(elf.sections) - 1
        subject.find(rule, what, name, symbol=name, section=place, last=last)
    for name in _annotated(elf):
        what = f"{name} is not converted"
        subject.find(catalogue.NOT_CONVERTED, what, name, symbol=name)
    if subject.kernel is not None:
        _check_undefined(subject, subject.kernel)


def _annotated(elf: ElfFile) -> list[str]:
    undefined = np.flatnonzero(elf.symbols["st_shndx"] == SHN_UNDEF)[1:]
    names = [elf.symbol_name(number) for number in undefined.tolist()]
    return [name for name in names if name.startswith(SYMBOL_PREFIX)]


def versions_of(elf: ElfFile) -> dict[str, int] | None:
    """Read the CRCs in ``__versions``, None when there is no such section.

    With CONFIG_EXTENDED_MODVERSIONS (6.14) two sections hold those of long names too.
    """
    section = found_section(elf, "__versions")
    crcs, names = elf.section("__version_ext_crcs"), elf.section("__version_ext_names")
    found: dict[str, int] = {}
    if crcs is not None and names is not None:
        numbers = np.frombuffer(elf.contents(crcs), elf.order + "u4", crcs.sh_size // 4)
        texts = bytes(elf.contents(names)).decode(errors="surrogateescape").split("\0")
        found |= dict(zip(texts, numbers.tolist(), strict=False))
    if section is None:
        return found or None
    data = bytes(elf.contents(section))
    for at in range(0, len(data) - _VERSION_SIZE + 1, _VERSION_SIZE):
        (crc,) = struct.unpack_from(elf.order + "Q", data, at)
        found.setdefault(string_at(data[at + 8 : at + _VERSION_SIZE], 0), crc)
    return found


def _check_undefined(subject: Subject, kernel: KernelSide) -> None:
    elf = subject.elf
    versions = versions_of(elf)
    with_crcs = kernel.config.enabled("MODVERSIONS")
    if with_crcs and versions is None:
        forced = kernel.config.enabled("MODULE_FORCE_LOAD")
        effect = Effect.WARNED if forced else Effect.REFUSED
        subject.find(catalogue.NO_VERSIONS, "has no section __versions", effect=effect)
    if with_crcs and versions is not None:
        layout = kernel.exports.find(_LAYOUT)
        if layout is not None:
            _check_crc(subject, versions, layout)

    names: dict[str, bool] = {}
    undefined = np.flatnonzero(elf.symbols["st_shndx"] == SHN_UNDEF)[1:]
    for number in undefined.tolist():
        symbol = elf.symbol(number)
        names[symbol.name] = names.get(symbol.name, True) and symbol.bind == STB.WEAK
    for name, weak in names.items():
        if name.startswith(SYMBOL_PREFIX):  # which check_symbols reports
            continue
        if name == _TOC and elf.e_machine == EM.PPC64:
            continue
        export = kernel.exports.find(name)
        if export is None or (export.gpl and not is_gpl(subject)):
            _not_exported(subject, name, weak, export)
            continue
        if with_crcs and versions is not None:
            _check_crc(subject, versions, export)
        _check_namespace(subject, export)
        _check_owner(subject, export)


def _not_exported(subject: Subject, name: str, weak: bool, export: Export | None) -> None:
    if weak or name == _IGNORED:
        if name != _IGNORED:
            subject.find(catalogue.WEAK_ZERO, f"nobody exports the weak symbol {name}", name)
    elif export is None:
        what = f"nobody exports {name}"
        subject.find(catalogue.UNKNOWN_SYMBOL, what, name, symbol=name)
    elif name != ENABLE:  # which check_information reports
        what = f"{name} is for GPL-compatible modules only"
        subject.find(catalogue.UNKNOWN_SYMBOL, what, name, symbol=name)


def _check_crc(subject: Subject, versions: dict[str, int], export: Export) -> None:
    name = export.symbol
    if not export.crc and name not in versions:
        return
    if name not in versions:
        what = f"__versions has no CRC of {name}"
        subject.find(catalogue.NO_CRC, what, name, symbol=name, module=subject.information_name)
    elif versions[name] != export.crc:
        what = f"the CRC of {name} is {versions[name]:#010x}, and the kernel's {export.crc:#010x}"
        subject.find(catalogue.CRC, what, name, symbol=name, module=subject.information_name)


def _check_namespace(subject: Subject, export: Export) -> None:
    imported = subject.info.get("import_ns", [])
    if not export.namespace or export.namespace in imported or not subject.kernel:
        return
    # Since 6.17 a namespace `module:a,b` is for the modules it names.
    names = export.namespace.removeprefix("module:").split(",")
    if export.namespace.startswith("module:") and subject.name in map(object_name, names):
        return
    allowed = subject.kernel.config.enabled("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS")
    subject.find(
        catalogue.NAMESPACE,
        f"{export.symbol} is in namespace {export.namespace}, which is not imported",
        export.symbol,
        Effect.WARNED if allowed else None,
        symbol=export.symbol,
        namespace=export.namespace,
    )


def _check_owner(subject: Subject, export: Export) -> None:
    if export.owner == VMLINUX:
        return
    said = ",".join(subject.info.get("depends", [""])).split(",")
    if export.owner in map(object_name, said):
        what = f"{export.symbol} of {export.owner} is used by an ordinary relocation"
        subject.find(catalogue.HARD_DEPENDENCY, what, export.symbol)
    else:
        what = f"{export.symbol} is exported by {export.owner}, which modinfo depends lacks"
        subject.find(catalogue.DEPENDS_LACKS, what, export.symbol, symbol=export.symbol)
