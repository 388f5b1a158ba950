"""The record of a kernel that livepatches are built for, and of where its parts are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.arch import Architecture
from klpbuild.distro.packaging import Packaging
from klpbuild.names import VMLINUX, object_name

#: What `klpbuild.vm.probe` brings out of a booted kernel, in ``Kernel.cache``.
KALLSYMS, FILTER_FUNCTIONS = "kallsyms", "available_filter_functions"


@dataclass(frozen=True)
class Toolchain:
    """The user's choice of tools, in kbuild's own variables; empty: klpbuild chooses.

    :ivar arch: ``ARCH``.
    :ivar cross_compile: ``CROSS_COMPILE``, what the names of the tools begin with.
    :ivar cc: ``CC``, the compiler, perhaps with a launcher such as ccache before it.
    :ivar kcflags: ``KCFLAGS``, which kbuild puts after the kernel's own flags.
    :ivar launcher: starts the compiler, but not kbuild's; it changes no result.
    """

    arch: str = ""
    cross_compile: str = ""
    cc: str = ""
    kcflags: str = ""
    launcher: str = ""


@dataclass(frozen=True)
class Kernel:
    """A kernel: a fetched one, a headers tree, a full build tree or the fixtures.

    :ivar name: what its directory under ``build/`` is called.
    :ivar release: UTS_RELEASE, as ``uname -r`` says and vermagic begins.
    :ivar version: the first three numbers of LINUX_VERSION_CODE.
    :ivar build: the tree that ``make -C`` takes for external modules.
    :ivar arch: its architecture.
    :ivar config: the ``.config`` that it was built with.
    :ivar module_symvers: its ``Module.symvers``.
    :ivar modules: its modules as the kernel loads them (``.ko``, never compressed),
        sorted by path.
    :ivar vmlinux: vmlinux with its symbol table, if at hand.
    :ivar system_map: the real ``System.map``, if at hand (never a stub).
    :ivar kallsyms: a copy of ``/proc/kallsyms``, if at hand.
    :ivar filter_functions: a copy of tracefs' ``available_filter_functions``, if at hand.
    :ivar image: the bootable image, if at hand.
    :ivar source: the whole source tree, if it is at hand and unpacked; see
        `klpbuild.kernel.source.source_tree`.
    :ivar cache: where klpbuild keeps what it learns of this kernel; outside the kernel
        tree; may not exist yet.
    :ivar debug_modules: the directory that holds the modules' debug information, laid
        out as the modules' own directory (``kernel/fs/...``), if at hand.
    :ivar package_version: Debian's version of a fetched kernel, else empty.
    :ivar toolchain: what the user says of the tools that build for it.
    :ivar packaging: how its distribution calls its packages; None for a build tree.
    :ivar folder: of the packages that the user added it from, else empty.
    :ivar further: those of `modules` that the user named beside the kernel's own.
    """

    name: str
    release: str
    version: tuple[int, int, int]
    build: Path
    arch: Architecture
    config: Path
    module_symvers: Path
    modules: tuple[Path, ...]
    vmlinux: Path | None
    system_map: Path | None
    kallsyms: Path | None
    filter_functions: Path | None
    image: Path | None
    source: Path | None
    cache: Path
    debug_modules: Path | None = None
    package_version: str = ""
    toolchain: Toolchain = Toolchain()
    packaging: Packaging | None = None
    folder: str = ""
    further: tuple[Path, ...] = ()

    def file_of(self, name: str) -> Path | None:
        """Find the file of vmlinux or of a module, by the kernel's name of it; None without one."""
        if name == VMLINUX:
            return self.vmlinux
        return next((path for path in self.modules if object_name(path.name) == name), None)
