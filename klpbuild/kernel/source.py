"""Unpack a kernel's source package."""

from __future__ import annotations

import os
from pathlib import Path

from klpbuild.distro.parts import Part
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import aside, cached_kernel, locked
from klpbuild.kernel.lacking import how_to_get
from klpbuild.kernel.tree import Kernel
from klpbuild.run import run


def source_tree(kernel: Kernel) -> Path:
    """Unpack the kernel's whole source, once (about 15 s).

    :param kernel: a fetched kernel with its source package, or one with `source`.
    :raises KlpError: when its source is not at hand.
    """
    if kernel.source:
        return kernel.source
    cached = cached_kernel(kernel.release)
    package = cached.package(Part.SOURCE) if cached and cached.learned == kernel.cache else None
    if not cached or not package:
        raise KlpError(
            f"the source of {kernel.release} is not at hand", hint=how_to_get(kernel, Part.SOURCE)
        )
    target = cached.path / "source"
    archive = cached.root / "usr" / "src" / f"{package.name}.tar.xz"
    with locked(target):
        if not target.is_dir():
            with aside(target) as making:
                unpack_source(archive, making)
                making.chmod(0o755)
                making.rename(target)
    return target


def unpack_source(archive: Path, tree: Path) -> None:
    """Unpack a kernel's source into a directory.

    :raises KlpError: when it is broken, or does not fit on the disk.
    """
    command = ["tar", "--extract", "--no-same-owner", "--strip-components=1"]
    process = run([*command, f"--file={archive}", f"--directory={tree}"], os.environ)
    if process.returncode:
        raise KlpError(
            "the kernel's source could not be unpacked",
            where=str(archive),
            why="\n".join(process.stderr.splitlines()[-3:]),
            hint="It needs tar, xz (package xz-utils) and about 1.5 GB of disk space.",
        )
