"""Find the guest's user space: busybox, from the system or from Debian's package."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from klpbuild.arch import Architecture
from klpbuild.distro.apt import Apt, unpack
from klpbuild.distro.debian import other_suites
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
    """Find a statically linked busybox: on PATH, in the cache, or by download without root.

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
    """Tell whether a program needs nothing else to run on an architecture."""
    try:
        file = ElfFile.read(path)
    except KlpError:
        return False
    return file.e_machine == arch.machine and file.section(".interp") is None


def _download(arch: Architecture, kept: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise _missing("This system has no apt-get to download it with.")
    offering = Apt() if arch.is_native else _foreign(arch)
    with tempfile.TemporaryDirectory(prefix="klpbuild-busybox-") as name:
        directory = Path(name)
        done = offering.run(
            "apt-get", "download", f"{PACKAGE}:{arch.debian_name}", directory=directory
        )
        packages = list(directory.glob("*.deb"))
        if done.returncode or len(packages) != 1:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise _missing(f"apt-get download: {lines[-1]}")
        unpack(packages[0], directory / "root")
        for place in ("root/usr/bin/busybox", "root/bin/busybox"):
            if is_usable(directory / place, arch):
                kept.parent.mkdir(parents=True, exist_ok=True)
                aside = kept.with_name(f".{kept.name}.{directory.name}")
                shutil.copy2(directory / place, aside)
                aside.replace(kept)
                return kept
    raise _missing(f"The package {PACKAGE} holds no busybox that can be used.")


def _foreign(arch: Architecture) -> Apt:
    """Make an apt with the machine's own suites, for another architecture."""
    own = sorted({s.suite for s in Apt().sources() if (s.origin, s.label) == ("Debian", "Debian")})
    directory = cache_directory() / "apt" / f"{arch.debian_name}-guest"
    return other_suites(directory, own, lambda line: None, arch.debian_name)


def _missing(why: str) -> KlpError:
    return KlpError(
        "a statically linked busybox is needed to boot a guest",
        why=why,
        hint=f"Run: apt-get install {PACKAGE}",
    )


def check_applets(busybox: Path) -> tuple[str, ...]:
    """List the applets to link in the guest.

    :raises KlpError: when busybox lacks one that the guest cannot do without.
    """
    present = applets(busybox.read_bytes())
    if lacking := sorted(_NEEDED - present):
        raise KlpError(
            "lacks what the guest needs: " + ", ".join(lacking),
            where=str(busybox),
            hint=f"Run: apt-get install {PACKAGE}",
        )
    return tuple(name for name in APPLETS if name in present)


def applets(program: bytes) -> frozenset[str]:
    """List the names in a busybox's table of applets, which need not run here."""
    begin = program.find(b"[\0[[\0")
    table, _, _ = program[max(begin, 0) :].partition(b"\0\0") if begin >= 0 else (b"", b"", b"")
    return frozenset(name.decode(errors="replace") for name in table.split(b"\0"))
