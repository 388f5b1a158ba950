"""Refuse files of another machine than the kernel's, or of another kernel."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel

#: ELF's magic number; offsets of EI_DATA and e_machine.
_MAGIC, _ORDER, _MACHINE = b"\x7fELF", 5, 18
#: linux_banner in init/version-timestamp.c (until 6.0 init/version.c).
_BANNER = re.compile(rb"Linux version (\d\S*) \(")


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
