"""A small Debian on a disk: dpkg, rpm and systemd, from packages that apt downloads.

Nobody mounts anything and no maintainer script runs: the packages are unpacked, dpkg's
records are written, and mke2fs copies the tree into a file system.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from klpbuild.distro.parts import Part
from klpbuild.kernel.cache import aside, cache_directory, cached_kernel, locked
from klpbuild.kernel.tree import Kernel

WANTED = (
    "base-files", "base-passwd", "coreutils", "dash", "diffutils", "dpkg", "findutils", "grep",
    "init-system-helpers", "kmod", "libc-bin", "mount", "rpm", "sed", "systemd-sysv", "tar",
    "util-linux",
)  # fmt: skip

#: They wait for devices or users that the guest does not have.
_MASKED = (
    "getty.target", "systemd-logind.service", "systemd-timesyncd.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "fstrim.timer", "systemd-journal-flush.service",
)  # fmt: skip

_TARGET = """[Unit]
Requires=multi-user.target
After=multi-user.target
Wants=klpbuild-test.service
AllowIsolate=yes
"""

_SERVICE = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /test/run
StandardOutput=null
StandardError=null
"""


def make_disk(kernel: Kernel, disk: Path) -> None:
    """Write a disk with a Debian on it that has a kernel installed, as dpkg sees it.

    :param kernel: a fetched one.
    :param disk: an ext4 file system, without partitions.
    """
    packages = _packages()
    identity = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    kept = cache_directory() / "guest" / f"debian-{identity}"
    with locked(kept):
        if not kept.is_dir():
            with aside(kept) as directory:
                _download(packages, directory)
                (directory / "debs").rename(kept)
    root = disk.parent / "root"
    _unpack(sorted(kept.glob("*.deb")), root)
    _configure(root, kernel)
    disk.unlink(missing_ok=True)
    _run("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root), str(disk), "600M")
    shutil.rmtree(root)


def _packages() -> list[str]:
    """``name=version`` of all that a system without any package needs."""
    done = _run(
        "apt-get", "-qq", "--simulate", "--no-install-recommends",
        "-o", "Dir::State::status=/dev/null", "install", *WANTED,
    )  # fmt: skip
    return sorted("=".join(m) for m in re.findall(r"^Inst (\S+) \((\S+)", done, re.MULTILINE))


def _download(packages: list[str], directory: Path) -> None:
    debs = directory / "debs"
    debs.mkdir()
    _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=debs)


def _unpack(debs: list[Path], root: Path) -> None:
    for merged in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / merged).mkdir(parents=True)
        (root / merged).symlink_to(f"usr/{merged}")
    records = root / "var" / "lib" / "dpkg"
    (records / "info").mkdir(parents=True)
    (records / "updates").mkdir()
    (records / "triggers").mkdir()
    (records / "info" / "format").write_text("1\n")
    (records / "available").touch()
    status = []
    for deb in debs:
        archive = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True
        )
        names = subprocess.run(
            ["tar", "-xv", "--keep-directory-symlink", "-C", root],
            input=archive.stdout,
            capture_output=True,
            check=True,
        )
        control = _run("dpkg-deb", "-f", str(deb))
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", control, re.MULTILINE))
        name = fields["Package"]
        if fields.get("Multi-Arch") == "same":
            name += f":{fields['Architecture']}"
        listed = [line[1:].rstrip("/") or "/." for line in names.stdout.decode().splitlines()]
        (records / "info" / f"{name}.list").write_text("".join(f"{line}\n" for line in listed))
        status.append(control.replace("\n", "\nStatus: install ok installed\n", 1))
    (records / "status").write_text("\n".join(status))


def _configure(root: Path, kernel: Kernel) -> None:
    for name in ("passwd", "group"):
        shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "test").mkdir()
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        (units / unit).symlink_to("/dev/null")
    (units / "klpbuild-test.target").write_text(_TARGET)
    (units / "klpbuild-test.service").write_text(_SERVICE)
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("klpbuild-test.target")
    fetched = cached_kernel(kernel.release)
    assert fetched is not None
    image = fetched.package(Part.IMAGE)
    assert image is not None
    modules = fetched.root / "lib" / "modules" / kernel.release
    target = root / "lib" / "modules" / kernel.release
    target.mkdir(parents=True)
    for table in modules.glob("modules.*"):
        shutil.copy(table, target)
    with (root / "var/lib/dpkg/status").open("a") as status:
        status.write(
            f"\nPackage: {image.name}\nStatus: install ok installed\nArchitecture: amd64\n"
            f"Version: {image.version}\nMaintainer: Debian\nDescription: the kernel\n"
        )
    listed = ("/.", "/lib", "/lib/modules", f"/lib/modules/{kernel.release}")
    files = root / f"var/lib/dpkg/info/{image.name}.list"
    files.write_text("".join(f"{line}\n" for line in listed))


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:3]}: {done.stdout}{done.stderr}"
    return done.stdout
