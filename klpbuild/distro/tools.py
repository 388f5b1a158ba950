"""Bring the compiler and tools of another suite into a directory, to be run from there."""

from __future__ import annotations

import os
import re
import shlex
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from klpbuild.distro import apt
from klpbuild.distro.apt import Apt
from klpbuild.distro.debian import Report
from klpbuild.errors import KlpError
from klpbuild.run import run

_EI_CLASS_64 = 2
_ET_EXEC, _ET_DYN = 2, 3
_PT_INTERP = 3


@dataclass(frozen=True)
class KernelCompiler:
    """The compiler that built a kernel, as its configuration says.

    :ivar package: the package that has it, such as ``gcc-14``.
    :ivar version: the compiler's, such as ``14.2.0``.
    :ivar revision: the package's version, such as ``14.2.0-19``; empty where it is not said.
    """

    package: str
    version: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> KernelCompiler | None:
        """Read CONFIG_CC_VERSION_TEXT: ``x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0``.

        :returns: None for a compiler that no package of this kind has.
        """
        match = re.fullmatch(r"\S*?(gcc-\d+) \((?:Debian (\S+))?.*\) (\d+\.\d+\.\d+)\b.*", text)
        return cls(match[1], match[3], match[2] or "") if match else None


def compiler_packages(text: str) -> tuple[str, ...]:
    """Name the packages that have a compiler, as Debian calls them.

    :param text: CONFIG_CC_VERSION_TEXT.
    :returns: ``gcc-14``; for clang also its linker and tools; empty where no version is said.
    """
    match = re.search(r"(\d+)\.\d+\.\d+", re.sub(r"\([^)]*\)", "", text))
    if not match:
        return ()
    kinds = ("clang", "lld", "llvm") if "clang" in text else ("gcc",)
    return tuple(f"{kind}-{match[1]}" for kind in kinds)


def bring_tools(
    offering: Apt, compiler: KernelCompiler, also: Sequence[str], making: Path, report: Report
) -> None:
    """Download a compiler with all that it needs, unpack it, and make its programs run there.

    :param also: packages whose libraries other programs of the kernel need.
    :param making: an empty directory; it gets ``root`` with the packages' files.
    :raises KlpError: when apt does not offer the compiler, or cannot deliver.
    """
    version, suite = _suite(offering, compiler)
    archives = making / "archives"
    (archives / "partial").mkdir(parents=True)
    words = [f"{compiler.package}={version}", "binutils", *also]
    report(f"{compiler.package} {version} of {suite}, with what it needs")
    done = offering.run(
        "apt-get", "-q", "-y", "-t", suite, "--download-only", "--no-install-recommends",
        "-o", f"Dir::Cache::archives={archives}", "install", *words,
    )  # fmt: skip
    packages = sorted(archives.glob("*.deb"))
    if done.returncode or not packages:
        raise KlpError(
            f"{compiler.package} {version} could not be downloaded",
            why="\n".join(line for line in done.stderr.splitlines() if line[:2] == "E:"),
            hint="Run the fetch again; what is there is kept.",
        )
    root = making / "root"
    root.mkdir()
    for package in packages:
        apt.unpack(package, root)
        package.unlink()
    # gcc searches these for its programs, before $PATH.
    for program in root.glob("usr/bin/*-linux-gnu-*"):
        target, _, name = program.name.partition("-linux-gnu-")
        if name in ("as", "ld", "ld.bfd"):
            place = root / "usr" / f"{target}-linux-gnu" / "bin" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(f"../../bin/{program.name}")


def runs_here(program: Path) -> bool:
    """Tell whether this machine's C library is new enough for a program."""
    errors = run([str(program), "-V"]).stderr
    return "GLIBC_" not in errors and "cannot open shared object" not in errors


def _suite(offering: Apt, compiler: KernelCompiler) -> tuple[str, str]:
    """Find the version of the compiler's package that is offered, and the suite that has it."""
    offered = offering.suites([compiler.package])
    rows = [(version, suite) for (_, version), suite in offered.items()]
    same = [row for row in rows if row[0] == compiler.revision]
    same += [row for row in rows if row[0].startswith(f"{compiler.version}-")]
    if same:
        return same[0]
    raise KlpError(
        f"apt offers no {compiler.package} {compiler.revision or compiler.version}",
        why="The kernel was built by it, and another version may make other code.  Offered: "
        + (", ".join(f"{version} ({suite})" for version, suite in rows) or "none")
        + ".",
        hint=f"Install {compiler.package} {compiler.version} from elsewhere, and name it with CC=.",
    )


def wrap_programs(directories: Iterable[Path], root: Path, final: Path) -> None:
    """Wrap dynamically linked programs in scripts that use the libraries of a directory.

    LD_LIBRARY_PATH would reach the programs that these start, too, so each program becomes a
    script that names the dynamic linker.

    :param directories: whose programs are wrapped, with all below them.
    :param root: where the libraries are.
    :param final: where `root` will be.
    """
    linkers = sorted(root.glob("usr/lib*/ld-linux*.so.*")) + sorted(
        root.glob("lib*/ld-linux*.so.*")
    )
    libraries = sorted({path.parent for path in root.glob("usr/lib/*-linux-gnu/libc.so.*")})
    libraries += sorted({path.parent for path in root.glob("lib/*-linux-gnu/libc.so.*")})
    if not linkers or not libraries:
        raise AssertionError(f"no C library below {root}")
    linker = final / linkers[0].relative_to(root)
    search = ":".join(str(final / path.relative_to(root)) for path in libraries)
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.suffix == ".real" or path.is_symlink() or not is_dynamic(path):
                continue
            real = path.with_name(f"{path.name}.real")
            with suppress(FileExistsError):  # of a run that was killed
                os.link(path, real)
            place = final / real.relative_to(root) if real.is_relative_to(root) else real
            words = [str(linker), "--argv0", "$0", "--library-path", search, str(place)]
            command = " ".join('"$0"' if word == "$0" else shlex.quote(word) for word in words)
            aside = path.with_name(f"{path.name}.new")
            aside.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            aside.chmod(0o755)
            aside.replace(path)


def is_dynamic(path: Path) -> bool:
    """Tell whether a file is a program for the dynamic linker, by its ELF program headers."""
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] != _EI_CLASS_64:
            return False
        order = "<" if head[5] == 1 else ">"
        kind = struct.unpack_from(f"{order}H", head, 16)[0]
        offset = struct.unpack_from(f"{order}Q", head, 32)[0]
        size, count = struct.unpack_from(f"{order}HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
    types = [struct.unpack_from(f"{order}I", table, n * size)[0] for n in range(count)]
    return kind in (_ET_EXEC, _ET_DYN) and _PT_INTERP in types
