"""arm64: its record."""

from klpbuild.arch.base import PATCHABLE, Architecture, Qemu
from klpbuild.elf.constants import EM

ARM64 = Architecture(
    name="aarch64",
    kernel_name="arm64",
    debian_name="arm64",
    rpm_name="aarch64",
    machine=EM.AARCH64,
    big_endian=False,
    options=("ARM64",),
    ftrace_flags=("-fpatchable-function-entry=2",),
    entry_sections=PATCHABLE,
    entry_symbol="",
    absolute_64=257,
    # CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS records the two instructions before the function.
    entry_offsets=frozenset({-8, 0, 4, 8, 12, 16}),
    entry_before=8,
    qemu=Qemu(
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        emulated_cpu="max",
        devices=("-M", "virt", "-nodefaults", "-display", "none"),
        console="ttyAMA0",
        channel="/dev/hvc0",
        results=("-device", "virtio-serial-device", "-device", "virtconsole,chardev=results"),
    ),
)
