"""Small kernels with livepatch that no distribution has at hand: other machines, other settings.

``python -m tests.machines.kernels s390x`` builds one, from the source of a Debian kernel, with
a compiler of Debian's, and keeps it in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from klpbuild.arch import ARM64, PPC64LE, S390X, X86_64, Architecture
from klpbuild.kernel.cache import cache_directory, locked
from klpbuild.kernel.source import source_tree
from tests.kernels import NEWEST, OTHERS, Wanted, fetched

_FRAGMENTS = Path(__file__).parent


@dataclass(frozen=True)
class Machine:
    """A machine and the kernel that it runs.

    :ivar source: the kernel whose source is built.
    :ivar llvm: what kbuild's ``LLVM=`` is, where clang builds it.
    """

    arch: Architecture
    source: Wanted = NEWEST
    llvm: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What kbuild is told of the compiler."""
        prefix = f"CROSS_COMPILE={self.arch.name}-linux-gnu-"
        return (f"ARCH={self.arch.kernel_name}", f"LLVM={self.llvm}" if self.llvm else prefix)

    @property
    def missing(self) -> str:
        """The programs that are not on this machine, in a line; empty when all are there."""
        assert self.arch.qemu is not None
        compilers = [f"{self.arch.name}-linux-gnu-gcc"]
        if self.llvm:
            compilers = [f"{name}{self.llvm}" for name in ("clang", "ld.lld", "llvm-ar")]
        absent = [p for p in (*compilers, self.arch.qemu.program) if not shutil.which(p)]
        return f"not on this machine: {', '.join(absent)}" if absent else ""


#: By the name that its settings have, too.
MACHINES = {
    "s390x": Machine(S390X),
    "powerpc64le": Machine(PPC64LE),
    # Livepatch came to arm64 with 6.19.
    "aarch64": Machine(ARM64, OTHERS["trixie-backports"]),
    # gcc has no landing pads that a kernel could use: CONFIG_ARM64_BTI_KERNEL wants clang.
    "aarch64-bti": Machine(ARM64, OTHERS["trixie-backports"], llvm="-19"),
    "x86_64-gcc": Machine(X86_64),
    "x86_64-kasan": Machine(X86_64),
    "x86_64-clang": Machine(X86_64, llvm="-19"),
}


def built(name: str) -> Path:
    """The build tree of a machine's kernel; it takes some minutes of processor time once."""
    machine = MACHINES[name]
    donor = fetched(machine.source, source=True)
    source = source_tree(donor)
    fragments = ["common", machine.arch.name, *([name] if name != machine.arch.name else [])]
    settings = "".join((_FRAGMENTS / f"{one}.config").read_text() for one in fragments)
    identity = hashlib.sha256(f"{donor.release}\n{settings}".encode()).hexdigest()[:12]
    tree = cache_directory() / "machines" / f"{name}-{identity}"
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
        ["make", "-s", "-C", source, f"O={tree}", *machine.words, *words],
        check=True,
        stderr=quiet,
        env={**os.environ, "LC_ALL": "C"},
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(built(name))
