"""The guest's user space: busybox, from the system or from Debian's package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from klpbuild.arch import Architecture
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import cache_directory

PACKAGE = "busybox-static"

#: What guest.sh, shell steps and the kernel itself (modprobe) call.
APPLETS = (
    "cat", "chmod", "cp", "cut", "dd", "dmesg", "echo", "env", "false", "find", "grep", "gzip",
    "head", "insmod", "kill", "ln", "ls", "lsmod", "md5sum", "mkdir", "mkdosfs", "mke2fs",
    "mknod", "mkswap", "modprobe", "mount", "mv", "ping", "poweroff", "printf", "ps", "readlink",
    "rm", "rmmod", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "tee",
    "test", "timeout", "touch", "tr", "true", "umount", "uname", "wc", "yes",
)  # fmt: skip
#: Without these the guest cannot report; the others are there for shell steps.
_NEEDED = frozenset(
    ("cat", "gzip", "insmod", "mkdir", "mount", "poweroff", "rmmod", "sh", "sleep", "stat", "stty")
)


def find_busybox(arch: Architecture) -> Path:
    """A statically linked busybox: the one on PATH, the one in the cache, or one downloaded
    (which needs no root).

    :param arch: the guest's architecture.
    :raises KlpError: when there is none and it cannot be downloaded.
    """
    on_path = shutil.which("busybox")
    if on_path is not None and is_usable(Path(on_path), arch):
        return Path(on_path)
    kept = cache_directory() / "guest" / f"busybox-{arch.name}"
    if kept.is_file():
        return kept
    return _download(arch, kept)


def is_usable(path: Path, arch: Architecture) -> bool:
    """Whether a program needs nothing else to run on an architecture."""
    try:
        file = ElfFile.read(path)
    except KlpError:
        return False
    return file.e_machine == arch.machine and file.section(".interp") is None


def _download(arch: Architecture, kept: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise _missing("This system has no apt-get to download it with.")
    with tempfile.TemporaryDirectory(prefix="klpbuild-busybox-") as name:
        directory = Path(name)
        _run(directory, "apt-get", "download", f"{PACKAGE}:{arch.debian_name}")
        packages = list(directory.glob("*.deb"))
        if len(packages) != 1:
            raise _missing("apt-get downloaded nothing.")
        _run(directory, "dpkg-deb", "-x", str(packages[0]), "root")
        for place in ("root/usr/bin/busybox", "root/bin/busybox"):
            if is_usable(directory / place, arch):
                kept.parent.mkdir(parents=True, exist_ok=True)
                aside = kept.with_name(f".{kept.name}.{directory.name}")
                shutil.copy2(directory / place, aside)
                aside.replace(kept)
                return kept
    raise _missing(f"The package {PACKAGE} holds no busybox that can be used.")


def _run(directory: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise _missing(f"{' '.join(command[:2])}: {lines[-1]}")


def _missing(why: str) -> KlpError:
    return KlpError(
        "a statically linked busybox is needed to boot a guest",
        why=why,
        hint=f"Run: apt-get install {PACKAGE}",
    )


def check_applets(busybox: Path) -> tuple[str, ...]:
    """The applets to link in the guest.

    :raises KlpError: when busybox lacks one that the guest cannot do without.
    """
    result = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=False)
    present = set(result.stdout.split())
    if lacking := sorted(_NEEDED - present):
        raise KlpError(
            "lacks what the guest needs: " + ", ".join(lacking),
            where=str(busybox),
            hint=f"Run: apt-get install {PACKAGE}",
        )
    return tuple(name for name in APPLETS if name in present)
