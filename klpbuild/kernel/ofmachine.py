"""Refuse files of another machine than the kernel's, or of another kernel."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.errors import KlpError
from klpbuild.kernel.modules import debug_files
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name

#: ELF's magic number; offsets of EI_DATA and e_machine.
_MAGIC, _ORDER, _MACHINE = b"\x7fELF", 5, 18
#: linux_banner in init/version-timestamp.c (until 6.0 init/version.c).
_BANNER = re.compile(rb"Linux version (\d\S*) \(")

#: Limit on debug files that are compared: another module may stand in place of the kernel's own.
_COMPARED = 8


def check_machine(path: Path, arch: Architecture, where: str = "") -> None:
    """Refuse an ELF file of another architecture or byte order than a kernel's.

    What is no ELF file is left to who reads it.

    :param where: how the user named it, if not by its path.
    :raises KlpError: when it is for another machine.
    """
    with path.open("rb") as file:
        header = file.read(_MACHINE + 2)
    if not header.startswith(_MAGIC) or len(header) < _MACHINE + 2:
        return
    big_endian = header[_ORDER] == 2
    machine = int.from_bytes(header[_MACHINE:], "big" if big_endian else "little")
    if machine != arch.machine:
        name = next((a.name for a in ARCHITECTURES if a.machine == machine), f"machine {machine}")
        what = f"is for {name}, and the kernel is for {arch.name}"
    elif big_endian != arch.big_endian:
        orders = ("little-endian", "big-endian")
        what = f"is {orders[big_endian]}, and {arch.name} kernels are {orders[arch.big_endian]}"
    else:
        return
    raise KlpError(what, where=where or str(path), hint="Name the file of this kernel.")


def check_vmlinux(path: Path, kernel: Kernel, where: str) -> None:
    """Refuse a vmlinux of another machine or release: its symbols have other positions.

    What does not say its release is left to who reads it.

    :param where: how the user named it.
    """
    check_machine(path, kernel.arch, where)
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        match = _BANNER.search(data)
        release = match[1].decode(errors="replace") if match else kernel.release
    if release != kernel.release:
        raise KlpError(
            f"is of {release}, and the kernel is {kernel.release}",
            where=where,
            hint="Name the file of this kernel.",
        )


def check_debug_modules(directory: Path, kernel: Kernel, word: str) -> None:
    """Refuse a directory without debug files of a kernel's modules.

    :param word: how the user named it, before a path.
    :raises KlpError: when it holds none, or those of another machine or build.
    """
    from klpbuild.elf.notes import build_id  # numpy takes longer than all the rest here
    from klpbuild.elf.reader import ElfFile

    files = debug_files(directory)
    if not files:
        raise KlpError(
            "holds no debug files of modules",
            where=f"{word}{directory}",
            why="They are called MODULE.ko or MODULE.ko.debug.",
        )
    check_machine(files[0], kernel.arch, f"{word}{files[0]}")
    own = {object_name(path.name): path for path in kernel.modules}
    names = ((object_name(path.name.removesuffix(".debug")), path) for path in files)
    differs = None
    for name, path in [(name, path) for name, path in names if name in own][:_COMPARED]:
        debug, module = (build_id(ElfFile.read(each)) for each in (path, own[name]))
        if debug == module or not debug or not module:
            return
        differs = differs or KlpError(
            f"is not of the module {name} that the kernel has",
            where=f"{word}{path}",
            why=f"Its build ID is {debug}, and {module} is that of {own[name]}.",
            hint="Name the directory of this kernel.",
        )
    if differs is not None:
        raise differs
