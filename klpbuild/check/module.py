"""Check a finished module: the one function that a build and the command line call."""

from __future__ import annotations

from pathlib import Path

from klpbuild.check import catalogue
from klpbuild.check.catalogue import RULES
from klpbuild.check.gates import check_gates
from klpbuild.check.header import EI_DATA, foreign_identity, header_faults
from klpbuild.check.information import check_information
from klpbuild.check.inlined import check_inlined
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.loaders import check_loading
from klpbuild.check.patches import check_patches
from klpbuild.check.proof import check_proof
from klpbuild.check.relocations import check_relocations
from klpbuild.check.rule import Finding, Report, Rule, Unchecked
from klpbuild.check.sections import check_sections
from klpbuild.check.signature import read_signature
from klpbuild.check.subject import Subject, hint_for
from klpbuild.check.symbols import check_symbols
from klpbuild.check.thismodule import check_this_module
from klpbuild.check.threads import check_threads
from klpbuild.check.tolerated import made_sound
from klpbuild.elf.constants import EM
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, reading
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name

#: Checks in the order in which the kernel makes them.
_CHECKS = (
    check_information,
    check_sections,
    check_this_module,
    check_symbols,
    check_relocations,
    check_gates,
    check_loading,
    check_patches,
    check_inlined,
    check_threads,
    check_proof,
)

#: Larger than any module; a file is read whole.
_SIZE_MAX = 1 << 30


def check_module(path: Path, kernel: Kernel | None = None, symbols: Path | None = None) -> Report:
    """Check what a kernel will say of a livepatch module.

    The file is read as the kernel would; neither what made it nor what it was made
    from is looked at.

    :param path: the ``.ko`` file, not compressed.
    :param kernel: None to check what holds for every kernel.
    :param symbols: the kernel's symbols.klp; None when only its headers are at hand.
    :raises KlpError: when the file cannot be read, or the kernel's own files are broken.
    """
    side = KernelSide(kernel, symbols) if kernel else None
    return check_bytes(_read(path), str(path), side)


def _read(path: Path) -> bytes:
    with reading(path):
        if path.exists() and not path.is_file():
            raise KlpError("is not a file", where=str(path))
        size = path.stat().st_size
        if size > _SIZE_MAX:
            raise KlpError(f"has {size:,} bytes, too many for a module", where=str(path))
        return path.read_bytes()


def open_module(path: Path, side: KernelSide) -> Subject:
    """Open a module with sound headers, to be explained.

    :raises KlpError: when it cannot be read, or is broken or for another machine.
    """
    data = _read(path)
    for fault in header_faults(data, side.kernel.arch.machine, side.version):
        raise KlpError(fault.what, where=str(path), why=fault.rule.why, hint=fault.rule.hint)
    return Subject(ElfFile(data, str(path)), path.name, side)


def check_bytes(data: bytes, path: str, side: KernelSide | None) -> Report:
    """Check a module as `check_module` does, whose file is read already."""
    machine = side.kernel.arch.machine if side else None
    version = side.version if side else None
    signature = read_signature(data)
    if signature is not None:
        data = data[: signature.module_size]
    for fault in header_faults(data, machine, version):
        values = {"module": object_name(path), **fault.values}
        return _unreadable(fault.rule, (fault.what,), values, path, side)
    sound = foreign_identity(data, machine)
    order = "<" if (sound or data)[EI_DATA] == 1 else ">"
    read, odd, lost = made_sound(sound or data, order)
    try:
        elf = ElfFile(read, path)
        _ = elf.sections, elf.symbols
    except KlpError as error:
        what = tuple(problem.what for problem in error.problems)
        return _unreadable(catalogue.BROKEN, what, {}, path, side)

    subject = Subject(elf, path, side, signature)
    if sound is not None:
        said = f"says that it is of ELF class {data[4]} and byte order {data[5]}"
        subject.find(catalogue.IDENTITY, said)
    for field in odd:
        subject.find(catalogue.LENIENT, field)
    for section in lost:
        subject.find(catalogue.BROKEN, section)
    for check in _CHECKS:
        with subject.guarded(catalogue.BROKEN):
            check(subject)
    unchecked = (*subject.unchecked, *subject.levels_unchecked())
    held = [rule for rule in RULES if subject.holds(rule)]
    findings = tuple(sorted(subject.findings, key=lambda f: f.rule.identifier))
    release = side.kernel.release if side else ""
    missed = {u.rule.identifier for u in unchecked if not u.about}
    return Report(path, release, findings, unchecked, len(held) - len(missed), subject)


def _unreadable(
    rule: Rule,
    faults: tuple[str, ...],
    values: dict[str, object],
    path: str,
    side: KernelSide | None,
) -> Report:
    """Make the report of a file of which nothing behind its headers can be read."""
    version = side.version if side else None
    machine = side.kernel.arch.machine if side else EM.X86_64
    says, hint = rule.message(version, values, machine), hint_for(rule, values)
    findings = tuple(Finding(rule, what, "", says, rule.effect, hint) for what in faults)
    held = [r for r in RULES if r.holds_for(version, machine)]
    rest = [r for r in held if r.identifier > rule.identifier]
    unchecked = tuple(Unchecked(r, "the file cannot be read any further") for r in rest)
    release = side.kernel.release if side else ""
    return Report(path, release, findings, unchecked, len(held) - len(rest))
