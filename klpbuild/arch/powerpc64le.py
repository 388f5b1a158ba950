"""ppc64le: its record."""

from klpbuild.arch.base import MCOUNT, PATCHABLE, Architecture
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
)
