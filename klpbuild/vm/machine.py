"""Choose the virtual machine that runs a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.arch.base import Qemu
from klpbuild.errors import KlpError


@dataclass(frozen=True)
class Machine:
    """How a kernel of one architecture is run."""

    arch: Architecture
    qemu: Qemu


def machine_for(arch: Architecture) -> Machine:
    """Choose the machine that runs kernels of an architecture.

    :raises KlpError: when klpbuild cannot boot it.
    """
    if arch.qemu is not None:
        return Machine(arch, arch.qemu)
    raise KlpError(
        f"{arch.name} kernels cannot be booted",
        why="Known machines: " + ", ".join(a.name for a in ARCHITECTURES if a.qemu) + ".",
        hint="Build the livepatch here and try it on a machine of its own.",
    )
