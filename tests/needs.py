"""Install the programs that boots, source patches and packages need, where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from klpbuild.errors import KlpError

#: Program, and the Debian package that has it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "mke2fs": "e2fsprogs",
    "lintian": "lintian",
    "rpmbuild": "rpm",
    "rpmlint": "rpmlint",
}
# What kbuild's own programs are compiled with has no program to look for.
_HEADERS = {"/usr/include/libelf.h": "libelf-dev", "/usr/include/openssl/ssl.h": "libssl-dev"}


def missing_packages() -> tuple[str, ...]:
    """List the Debian packages that are needed and not there, sorted."""
    absent = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    absent |= {package for path, package in _HEADERS.items() if not Path(path).exists()}
    return tuple(sorted(absent))


def provide() -> None:
    """Install what is missing, if we are root.

    :raises KlpError: when something is missing and cannot be installed, with the command
        that installs it.
    """
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    why = "Only root can install packages."
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        print(f"installing {', '.join(missing)}")
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and not missing_packages():
            return
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "apt-get failed."
    raise KlpError(
        f"missing on this machine: {', '.join(missing)}", why=why, hint=f"sudo {' '.join(command)}"
    )
