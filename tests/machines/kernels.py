"""Small kernels with livepatch for other machines: distributions' own lack it or are not at hand.

``python -m tests.machines.kernels s390x`` builds one, from the source of a Debian kernel, with
Debian's cross compiler, and keeps it in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from klpbuild.arch import ARM64, PPC64LE, S390X, Architecture
from klpbuild.kernel.cache import cache_directory, locked
from klpbuild.kernel.source import source_tree
from tests.kernels import NEWEST, OTHERS, Wanted, fetched

_FRAGMENTS = Path(__file__).parent


@dataclass(frozen=True)
class Machine:
    """A machine and the kernel that it runs.

    :ivar source: the kernel whose source is built.
    :ivar packages: Debian's packages of its compiler and its emulator.
    """

    arch: Architecture
    source: Wanted
    packages: tuple[str, str]

    @property
    def prefix(self) -> str:
        return f"{self.arch.name}-linux-gnu-"

    @property
    def missing(self) -> str:
        """The programs that are not on this machine, in a line; empty when all are there."""
        assert self.arch.qemu is not None
        programs = (f"{self.prefix}gcc", self.arch.qemu.program)
        absent = [
            p for p, package in zip(programs, self.packages, strict=True) if not shutil.which(p)
        ]
        return f"not on this machine: {', '.join(absent)}" if absent else ""


MACHINES = {
    "s390x": Machine(S390X, NEWEST, ("gcc-s390x-linux-gnu", "qemu-system-misc")),
    "powerpc64le": Machine(PPC64LE, NEWEST, ("gcc-powerpc64le-linux-gnu", "qemu-system-ppc")),
    # Livepatch came to arm64 with 6.19.
    "aarch64": Machine(
        ARM64, OTHERS["trixie-backports"], ("gcc-aarch64-linux-gnu", "qemu-system-arm")
    ),
}


def built(machine: Machine) -> Path:
    """The build tree of a machine's kernel; it takes some minutes of processor time once."""
    donor = fetched(machine.source, source=True)
    source = source_tree(donor)
    fragments = [_FRAGMENTS / f"{name}.config" for name in ("common", machine.arch.name)]
    settings = "".join(path.read_text() for path in fragments)
    identity = hashlib.sha256(f"{donor.release}\n{settings}".encode()).hexdigest()[:12]
    tree = cache_directory() / "machines" / f"{machine.arch.name}-{identity}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with locked(tree):
        if not (tree / "built").is_file():
            tree.mkdir(exist_ok=True)
            _make(machine, source, tree, "tinyconfig")
            with (tree / ".config").open("a") as config:
                config.write(settings)
            _make(machine, source, tree, "olddefconfig")
            _make(machine, source, tree, f"-j{os.cpu_count()}", "all")
            (tree / "built").touch()
    return tree


def _make(machine: Machine, source: Path, tree: Path, *words: str) -> None:
    # It warns of each setting that is made twice, the second time by a fragment.
    quiet = subprocess.DEVNULL if "olddefconfig" in words else None
    subprocess.run(
        [
            "make", "-s", "-C", source, f"O={tree}", f"ARCH={machine.arch.kernel_name}",
            f"CROSS_COMPILE={machine.prefix}", *words,
        ],
        check=True,
        stderr=quiet,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(built(MACHINES[name]))
