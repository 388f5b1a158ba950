"""The virtual machine of each architecture: what QEMU calls it and how its kernel talks."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from klpbuild.arch import X86_64, Architecture
from klpbuild.errors import KlpError


@dataclass(frozen=True)
class Machine:
    """How a kernel of one architecture is run.

    :ivar arch: the architecture.
    :ivar program: QEMU's program.
    :ivar package: the Debian package that holds it.
    :ivar emulated_cpu: ``-cpu`` under emulation.
    :ivar devices: options for a machine without devices other than serial ports.
    :ivar console: the kernel's name of the first serial port, for its log.
    :ivar channel: the guest's device file of the second serial port, for the results.
    :ivar parameters: kernel parameters that only this architecture needs.
    """

    arch: Architecture
    program: str
    package: str
    emulated_cpu: str
    devices: tuple[str, ...]
    console: str
    channel: str
    parameters: tuple[str, ...] = ()

    @property
    def is_native(self) -> bool:
        """Whether this computer has the same architecture, so that KVM could run it."""
        return platform.machine() == self.arch.name


#: ``max`` without PKU and five-level paging: with them QEMU 7.2's emulation makes Linux 6.12
#: panic before it runs init.
_X86_64 = Machine(
    arch=X86_64,
    program="qemu-system-x86_64",
    package="qemu-system-x86",
    emulated_cpu="max,-pku,-la57",
    devices=("-nodefaults", "-no-user-config", "-display", "none"),
    console="ttyS0",
    channel="/dev/ttyS1",
)

MACHINES = (_X86_64,)


def machine_for(arch: Architecture) -> Machine:
    """The machine that runs kernels of an architecture.

    :raises KlpError: when klpbuild cannot boot it.
    """
    for machine in MACHINES:
        if machine.arch == arch:
            return machine
    raise KlpError(
        f"{arch.name} kernels cannot be booted",
        why="Known machines: " + ", ".join(m.arch.name for m in MACHINES) + ".",
        hint="Build the livepatch here and try it on a machine of its own.",
    )
