"""Choose how QEMU runs a guest: by emulation, or by KVM where that really works."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.vm.initramfs import base_archive
from klpbuild.vm.machine import Machine
from klpbuild.vm.qemu import qemu_command, run

VARIABLE = "KLPBUILD_ACCEL"
KINDS = ("tcg", "kvm")

#: With KVM a kernel reaches its init in about a second.
_PROBE_SECONDS = 5.0

#: QEMU's program to whether KVM boots: that depends on this computer, hardly on the kernel.
_KVM_BOOTS: dict[str, bool] = {}


def choose_accelerator(machine: Machine, image: Path) -> str:
    """Choose ``kvm`` if it can boot this kernel here, else ``tcg``; ``$KLPBUILD_ACCEL`` overrides.

    Nested KVM may hang or abort when a kernel boots, though ``/dev/kvm`` is there and small
    programs run: so it is tried on the kernel itself, once in the life of this process.

    :param image: the kernel's bootable image.
    :raises KlpError: when the variable holds another word.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        if wanted not in KINDS:
            raise KlpError(
                f"{VARIABLE}={wanted} names no accelerator", hint="Known: " + ", ".join(KINDS) + "."
            )
        return wanted
    if not machine.arch.is_native or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    if machine.qemu.program not in _KVM_BOOTS:
        _KVM_BOOTS[machine.qemu.program] = kvm_boots(machine, image)
    return "kvm" if _KVM_BOOTS[machine.qemu.program] else "tcg"


def kvm_boots(machine: Machine, image: Path) -> bool:
    """Tell whether a kernel reaches its init with KVM, within a few seconds."""
    heard = bytearray()
    with tempfile.TemporaryDirectory("-klpbuild-kvm") as name:
        directory = Path(name)
        archive = base_archive(machine)
        archive.add_file("/klpbuild/steps", b"")
        (directory / "initramfs.cpio").write_bytes(archive.finish())
        command = qemu_command(
            machine,
            accelerator="kvm",
            image=image,
            initramfs=directory / "initramfs.cpio",
            console=directory / "console.log",
            memory=512,
            processors=2,
        )
        run(command, heard.extend, _PROBE_SECONDS)
    return b"ready" in heard
