"""s390x: its record."""

from klpbuild.arch.base import MCOUNT, Architecture, Qemu
from klpbuild.elf.constants import EM

S390X = Architecture(
    name="s390x",
    kernel_name="s390",
    debian_name="s390x",
    rpm_name="s390x",
    machine=EM.S390,
    big_endian=True,
    options=("S390",),
    ftrace_flags=("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount"),
    entry_sections=MCOUNT,
    entry_symbol="__fentry__",
    absolute_64=22,
    qemu=Qemu(
        program="qemu-system-s390x",
        package="qemu-system-misc",
        emulated_cpu="max",
        devices=("-M", "s390-ccw-virtio", "-nodefaults", "-display", "none"),
        console="ttysclp0",
        channel="/dev/hvc0",
        # The only serial port that passes bytes on as they are is the console's.
        results=("-device", "virtio-serial-ccw", "-device", "virtconsole,chardev=results"),
    ),
)
