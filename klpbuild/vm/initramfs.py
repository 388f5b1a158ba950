"""Build the guest's root file system: busybox, its init, the steps and the modules they load."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.busybox import check_applets, find_busybox
from klpbuild.vm.cpio import Archive
from klpbuild.vm.machine import Machine
from klpbuild.vm.modules import GuestModules, read_module
from klpbuild.vm.scenario import Group, GuestFiles, kernel_modules, module_files, script

_DIRECTORIES = ("/dev", "/proc", "/sys", "/tmp", "/run", "/mnt")


def build_initramfs(
    kernel: Kernel, machine: Machine, groups: tuple[Group, ...], modules: GuestModules
) -> bytes:
    """Build the archive that a guest boots from; the same input gives the same bytes.

    It is not compressed: QEMU copies it into the guest's memory faster than the guest would
    uncompress it.

    :param kernel: the kernel to boot.
    :param machine: the machine that it boots on.
    :param groups: what the guest is to do.
    :param modules: the kernel's modules.
    :raises KlpError: when a module or busybox is missing.
    """
    archive = base_archive(machine)
    places = _add_modules(archive, kernel, kernel_modules(groups), modules)
    own = {}
    for number, path in enumerate(module_files(groups)):
        own[path] = f"/livepatches/{number}/{path.name}"
        archive.add_file(own[path], read_module(path))
    guest_files = GuestFiles(
        own.__getitem__, lambda name: tuple(places[n] for n in modules.load_order([name]))
    )
    archive.add_file("/klpbuild/steps", script(groups, guest_files).encode())
    return archive.finish()


def base_archive(machine: Machine) -> Archive:
    """Build what every guest needs; `/klpbuild/steps` is still missing.

    :param machine: the machine that the guest boots on.
    :raises KlpError: when busybox is missing.
    """
    archive = Archive()
    for path in _DIRECTORIES:
        archive.add_directory(path)
    # The kernel opens it for init before devtmpfs is mounted.
    archive.add_device("/dev/console", 5, 1)
    _add_busybox(archive, find_busybox(machine.arch))
    archive.add_file("/init", files("klpbuild.vm").joinpath("guest.sh").read_bytes(), 0o755)
    archive.add_file(
        "/klpbuild/settings", f"channel={shlex.quote(machine.qemu.channel)}\n".encode()
    )
    return archive


def _add_busybox(archive: Archive, busybox: Path) -> None:
    archive.add_file("/bin/busybox", busybox.read_bytes(), 0o755)
    for applet in check_applets(busybox):
        archive.add_link(f"/bin/{applet}", "busybox")
    # The kernel's own name for it (CONFIG_MODPROBE_PATH).
    archive.add_link("/sbin/modprobe", "../bin/busybox")


def _add_modules(
    archive: Archive, kernel: Kernel, names: tuple[str, ...], modules: GuestModules
) -> dict[str, str]:
    """Add modules with what they need and modprobe's tables; return the guest's path of each."""
    directory = f"/lib/modules/{kernel.release}"
    places = {name: f"{directory}/{name}.ko" for name in modules.closure(names)}
    dependencies, aliases = [], []
    for name, place in places.items():
        archive.add_file(place, modules.read(name))
        info = modules.info(name)
        needed = [f"{need}.ko" for need in reversed(modules.load_order([name])) if need != name]
        dependencies.append(" ".join([f"{name}.ko:", *needed]))
        aliases += [f"alias {alias} {name}" for alias in info.aliases]
    for table, lines in (("modules.dep", dependencies), ("modules.alias", aliases)):
        archive.add_file(f"{directory}/{table}", "".join(f"{line}\n" for line in lines).encode())
    return places
