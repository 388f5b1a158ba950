"""Examine a machine and a kernel for what klpbuild uses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from klpbuild.arch import X86_64
from klpbuild.distro.parts import Part
from klpbuild.distro.tools import runs_here
from klpbuild.doctor.needs import NEEDS, Need, Purpose
from klpbuild.doctor.system import System
from klpbuild.errors import KlpError
from klpbuild.kernel.added import added_kernel
from klpbuild.kernel.cache import cache_directory, cached_kernel
from klpbuild.kernel.config import Config
from klpbuild.kernel.kbuild import (
    cross_prefix,
    find_compiler,
    linker_suffix,
    packages_of_compiler,
    version_line,
)
from klpbuild.kernel.lacking import WITHOUT, how_to_get
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.busybox import is_usable

#: Sizes of a kernel with headers, and of one with debug symbols and source, in bytes.
_SMALL, _WHOLE = 200e6, 4e9
#: Sizes that patches need: unpacked source, debug symbols, and the prepared source.
_SOURCE, _DEBUG, _PREPARED = 1.7e9, 2.3e9, 0.3e9


class State(Enum):
    """Result of looking for something."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    ABSENT = "-"  # and not required

    @property
    def good(self) -> bool:
        """Whether klpbuild can do its main work with it."""
        return self in (State.OK, State.ABSENT)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    :ivar heading: under which it is shown.
    :ivar text: what was found, or what it is for.
    :ivar package: the package that brings it, empty without one.
    :ivar command: what mends it, where that is no package.
    """

    heading: str
    state: State
    name: str
    text: str = ""
    package: str = ""
    command: str = ""


def examine(system: System, kernel: str | None = None) -> tuple[Finding, ...]:
    """Look for everything that klpbuild uses on a machine.

    :param kernel: as `klpbuild.kernel.locate.locate` takes it; None: no kernel is looked at.
    """
    findings = [_program(system, need) for need in NEEDS]
    findings += [_kvm(system), _space()]
    if kernel is not None:
        findings += _kernel(kernel)
    order = {f.heading: number for number, f in reversed(list(enumerate(findings)))}
    return tuple(sorted(findings, key=lambda finding: order[finding.heading]))


def _program(system: System, need: Need) -> Finding:
    found = system.find(need)
    package = need.package(system.manager) if system.manager else ""
    absent = State.MISSING if need.purpose.required else State.ABSENT
    if found is None:
        return Finding(need.purpose.value, absent, need.name, need.use, package)
    if need.name == "busybox" and not is_usable(found, X86_64):
        text = f"{found} needs shared libraries, which the guest has not"
        return Finding(need.purpose.value, State.WRONG, need.name, text, package)
    return Finding(need.purpose.value, State.OK, need.name, str(found))


def _kvm(system: System) -> Finding:
    heading, device = Purpose.COMFORT.value, system.root / "dev/kvm"
    if not device.exists():
        return Finding(heading, State.ABSENT, "KVM", "without it QEMU emulates, a few seconds more")
    if not os.access(device, os.R_OK | os.W_OK):
        text = f"{device} may not be opened; without it QEMU emulates, a few seconds more"
        return Finding(heading, State.ABSENT, "KVM", text)
    return Finding(heading, State.OK, "KVM", "tried before it is used: nested, it may hang")


def _space() -> Finding:
    directory = cache_directory()
    there = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    state = State.OK if free > _SMALL else State.MISSING
    wanted = "0.2 GB a kernel" if free <= _SMALL else "4 GB with debug symbols and source"
    text = f"{free / 1e9:,.1f} GB free in {directory}; a kernel takes {wanted}"
    if _SMALL < free <= _WHOLE:
        text += ", 0.2 GB without"
    command = "" if state.good else "export KLPBUILD_CACHE=a directory on a larger disk"
    return Finding("disk", state, "space", text, command=command)


def _kernel(text: str) -> Iterator[Finding]:
    """Check what a kernel has and needs; nothing of it is unpacked or read whole."""
    heading = f"kernel {text}"
    try:
        kernel = locate(text)
    except KlpError as error:
        known = cached_kernel(text) or added_kernel(text)
        command = f"klpbuild kernel fetch {text}" if not known and "/" not in text else ""
        for problem in error.problems:
            name = "unusable" if known or "/" in text else "headers"
            yield Finding(heading, State.MISSING, name, problem.what, command=command)
        return
    yield Finding(heading, State.OK, "headers", str(kernel.build))
    count = len(kernel.modules)
    yield Finding(heading, State.OK if count else State.ABSENT, "modules", str(count))
    yield from _compiler(heading, kernel)
    yield _binutils(heading, kernel)
    yield from _own_programs(heading, kernel)
    if kernel.arch != X86_64:  # whose emulator is among what every machine needs
        yield _emulator(heading, kernel)
    there = {
        Part.IMAGE: kernel.image,
        Part.DEBUG: kernel.vmlinux,
        Part.SOURCE: kernel.source or _source_archive(kernel),
    }
    for part, path in there.items():
        if path is None:
            text = f"{WITHOUT[part]}.  {how_to_get(kernel, part)}"
            yield Finding(heading, State.ABSENT, part.value, text)
        else:
            yield Finding(heading, State.OK, part.value, str(path))
    yield _room(heading, kernel, there)


def _source_archive(kernel: Kernel) -> Path | None:
    """Find the source package of a fetched kernel, which the first patch unpacks."""
    cached = cached_kernel(kernel.release)
    package = cached.package(Part.SOURCE) if cached and kernel.package_version else None
    return cached.root / "usr/src" / f"{package.name}.tar.xz" if cached and package else None


def _room(heading: str, kernel: Kernel, there: Mapping[Part, Path | None]) -> Finding:
    """Check the disk space that patches for a kernel still need."""
    unpacked = kernel.source is not None
    needed = _PREPARED + (0 if unpacked else _SOURCE) + (0 if there[Part.DEBUG] else _DEBUG)
    cache = next(path for path in (kernel.cache, *kernel.cache.parents) if path.is_dir())
    free = shutil.disk_usage(cache).free
    text = f"patches for it take up to {needed / 1e9:.1f} GB more; {free / 1e9:,.1f} GB are free"
    return Finding(heading, State.OK if free > needed else State.ABSENT, "space", text)


def _compiler(heading: str, kernel: Kernel) -> Iterator[Finding]:
    try:
        compiler = find_compiler(kernel)
    except KlpError as error:
        wanted = Config.read(kernel.config).value("CC_VERSION_TEXT")
        text = f"{error.problems[0].what}; the kernel was built by {wanted}"
        yield _wanted(heading, State.MISSING, kernel, text)
        return
    if compiler.is_kernels:
        text = f"{compiler.version}, which built the kernel"
        yield Finding(heading, State.OK, "compiler", text)
    elif compiler.is_kernels_version:
        text = f"{compiler.version}; the kernel was built by {compiler.kernel_version}"
        yield Finding(heading, State.OK, "compiler", text)
    else:
        yield _wanted(heading, State.WRONG, kernel, compiler.warning)


def _wanted(heading: str, state: State, kernel: Kernel, text: str) -> Finding:
    """Report a compiler that is not here, and what brings it."""
    wanted = Config.read(kernel.config).value("CC_VERSION_TEXT")
    # Debian's other suites have it; the fetch unpacks it into the cache.
    if kernel.package_version:
        command = f"klpbuild kernel fetch {kernel.release}"
        return Finding(heading, state, "compiler", text, command=command)
    return Finding(heading, state, "compiler", text, packages_of_compiler(kernel, wanted))


def _binutils(heading: str, kernel: Kernel) -> Finding:
    """Check the linker: kbuild takes any that it finds, so another version is only noted."""
    llvm = linker_suffix(kernel)
    name = f"{cross_prefix(kernel)}ld" if llvm is None else f"ld.lld{llvm}"
    found = version_line(name)
    if not found:
        text = f"{name} is not on this machine"
        own = "binutils" if kernel.arch.is_native else f"binutils-{kernel.arch.name}-linux-gnu"
        package = own.replace("_", "-") if llvm is None else f"lld{llvm}"
        return Finding(heading, State.MISSING, "linker", text, package)
    option = "LD_VERSION" if llvm is None else "LLD_VERSION"
    numbers = Config.read(kernel.config).value(option)
    text = found
    if numbers.isdigit() and int(numbers):
        wanted = f"{int(numbers) // 10000}.{int(numbers) // 100 % 100}"
        text += f"; the kernel was linked by {wanted}"
    return Finding(heading, State.OK, "linker", text)


def _emulator(heading: str, kernel: Kernel) -> Finding:
    """Check the emulator that boots kernels of another machine."""
    qemu = kernel.arch.qemu
    if qemu is None:
        text = f"`klpbuild boot` cannot boot kernels of {kernel.arch.name}"
        return Finding(heading, State.ABSENT, "emulator", text)
    found = shutil.which(qemu.program)
    if found is None:
        text = f"{qemu.program} is not on this machine: `klpbuild boot` does not work"
        return Finding(heading, State.ABSENT, "emulator", text, qemu.package)
    return Finding(heading, State.OK, "emulator", found)


def _own_programs(heading: str, kernel: Kernel) -> Iterator[Finding]:
    """Check the kernel's own programs, which may need a newer C library than this machine's."""
    for name in ("scripts/mod/modpost", "tools/objtool/objtool"):
        program = kernel.build / name
        if program.is_file() and not runs_here(program):
            text = f"{name} needs a newer C library than this machine has"
            command = f"klpbuild kernel fetch {kernel.release}" if kernel.package_version else ""
            yield Finding(heading, State.WRONG, "tools", text, command=command)
