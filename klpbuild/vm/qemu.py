"""Run QEMU: find it, choose the accelerator, read what the guest says, end it in time."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.vm.machine import Machine

#: Kernel parameters of every guest: its log on the console with levels, times, and without a limit
#: on what init writes to it, a reboot (which ends QEMU) at the first oops, addresses as linked.
PARAMETERS = (
    "quiet", "panic=-1", "oops=panic", "nokaslr", "printk.devkmsg=on",
    "console_msg_format=syslog", "printk.time=1", "random.trust_cpu=on",
)  # fmt: skip

#: QEMU's options for an accelerator.  With a thread for each processor, emulation lets one of
#: them run an int3 that another has already replaced: a kernel that patches its code (ftrace,
#: static keys) then oopses with "int3", about once in a hundred livepatches with QEMU 7.2
#: (bugzilla.redhat.com 2216496).  One thread for all of them cannot, and is no slower.
_ACCELERATORS = {"tcg": "tcg,thread=single", "kvm": "kvm"}


@dataclass(frozen=True)
class QemuExit:
    """How QEMU ended.

    :ivar status: its exit status, negative for a signal.
    :ivar messages: what it wrote to standard error.
    :ivar timed_out: whether it was ended because the guest said nothing for too long.
    """

    status: int
    messages: str
    timed_out: bool


def find_qemu(machine: Machine) -> str:
    """Find QEMU's program for a machine.

    :raises KlpError: when it is not installed.
    """
    program = shutil.which(machine.qemu.program)
    if program is None:
        raise KlpError(
            f"{machine.qemu.program} is not installed",
            hint=f"Run: apt-get install {machine.qemu.package}",
        )
    return program


def qemu_command(
    machine: Machine,
    *,
    accelerator: str,
    image: Path,
    initramfs: Path,
    console: Path,
    memory: int,
    processors: int,
) -> tuple[str, ...]:
    """Build QEMU's command line; the guest's results come on its standard output.

    :param accelerator: ``tcg`` or ``kvm``.
    :param image: the kernel's bootable image.
    :param console: file for the console, which carries the kernel's log.
    :param memory: the guest's memory, MiB.
    :raises KlpError: when QEMU is not installed.
    """
    cpu = machine.qemu.emulated_cpu if accelerator == "tcg" else "host"
    parameters = " ".join(
        [f"console={machine.qemu.console}", *PARAMETERS, *machine.qemu.parameters]
    )
    return (
        find_qemu(machine), *machine.qemu.devices,
        "-accel", _ACCELERATORS[accelerator],
        "-cpu", cpu, "-smp", str(processors), "-m", f"{memory}M",
        "-no-reboot",
        "-chardev", f"file,id=console,path={_escape(console)}", "-serial", "chardev:console",
        "-chardev", "stdio,id=results,signal=off", *machine.qemu.results,
        "-kernel", str(image), "-initrd", str(initramfs), "-append", parameters,
    )  # fmt: skip


def _escape(path: Path) -> str:
    # QEMU takes a comma in an option's value for the option's end, unless doubled.
    return str(path).replace(",", ",,")


def run(command: tuple[str, ...], receive: Callable[[bytes], None], quiet_limit: float) -> QemuExit:
    """Run QEMU until it ends, or says nothing for too long.

    It never outlives this process.

    :param command: the command line, see `qemu_command`.
    :param receive: called with each piece of its standard output.
    :param quiet_limit: seconds without output after which it is ended.
    """
    with tempfile.TemporaryFile() as messages:
        # Its parent's death kills it even when that parent cannot (setpriv is in util-linux).
        guard = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        process = subprocess.Popen(
            (*guard, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            timed_out = not _read_all(process.stdout.fileno(), receive, quiet_limit)
            if not timed_out:
                process.wait(10)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill(process)
            process.stdout.close()
        messages.seek(0)
        text = messages.read().decode(errors="replace")
    return QemuExit(process.returncode if process.returncode is not None else -9, text, timed_out)


def _read_all(output: int, receive: Callable[[bytes], None], quiet_limit: float) -> bool:
    """Read to the end; False when it was quiet for too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while selector.select(quiet_limit):
            data = os.read(output, 1 << 16)
            if not data:
                return True
            receive(data)
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        # A QEMU that hangs inside the kernel's KVM may not even die; it must not hang us.
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
