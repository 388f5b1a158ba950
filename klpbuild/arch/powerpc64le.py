"""ppc64le: its record."""

from klpbuild.arch.base import MCOUNT, PATCHABLE, Architecture, Qemu
from klpbuild.elf.constants import EM

PPC64LE = Architecture(
    name="powerpc64le",
    kernel_name="powerpc",
    debian_name="ppc64el",
    rpm_name="ppc64le",
    machine=EM.PPC64,
    big_endian=False,
    options=("PPC64", "CPU_LITTLE_ENDIAN"),
    ftrace_flags=("-pg", "-mprofile-kernel"),
    entry_sections=MCOUNT + PATCHABLE,
    entry_symbol="_mcount",
    absolute_64=38,
    takes_none=False,
    # `bl _mcount`, whose relocation is that of the whole instruction.
    entry_opcode=0,
    qemu=Qemu(
        program="qemu-system-ppc64",
        package="qemu-system-ppc",
        emulated_cpu="power9",
        devices=("-M", "pseries", "-nodefaults", "-display", "none"),
        console="hvc0",
        channel="/dev/hvc1",
    ),
)
