"""The files of a kernel's modules, decompressed where they are not."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.cache import aside, locked

_COMPRESSED = (".ko.xz", ".ko.gz", ".ko.zst")


def module_files(directory: Path) -> list[Path]:
    """List the modules of an installed kernel as they are, in any order.

    :param directory: ``/lib/modules/RELEASE``; its ``kernel/`` is read.
    """
    return [
        Path(parent, name)
        for parent, _, names in os.walk(directory / "kernel")
        for name in names
        if name.endswith((".ko", *_COMPRESSED))
    ]


def debug_files(directory: Path) -> tuple[Path, ...]:
    """List the modules' debug files, sorted by path: ``x.ko``, or ``x.ko.debug``."""
    return tuple(sorted([*directory.rglob("*.ko"), *directory.rglob("*.ko.debug")]))


def shipped_modules(directory: Path, decompressed: Path) -> tuple[Path, ...]:
    """The modules of an installed kernel, sorted by path.

    :param directory: ``/lib/modules/RELEASE``; its ``kernel/`` is read.
    :param decompressed: where compressed ones are decompressed to, once.
    :raises KlpError: when one cannot be decompressed.
    """
    shipped = module_files(directory)
    compressed = [path for path in shipped if path.suffix != ".ko"]
    if not compressed:
        return tuple(sorted(shipped))
    with locked(decompressed):
        if not decompressed.is_dir():
            with aside(decompressed) as making:
                _decompress_all(directory, compressed, making / "modules")
                (making / "modules").rename(decompressed)
    plain = {path.with_suffix("").relative_to(directory): path for path in compressed}
    return tuple(
        sorted(
            [path for path in shipped if path.suffix == ".ko"]
            + [decompressed / relative for relative in plain]
        )
    )


def _decompress_all(directory: Path, files: list[Path], target: Path) -> None:
    def decompress_one(path: Path) -> None:
        plain = target / path.with_suffix("").relative_to(directory)
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(decompress(path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decompress_one, files):
            pass


def decompress(path: Path) -> bytes:
    """The contents of a compressed file.

    :param path: its suffix names the compression: ``.xz``, ``.gz`` or ``.zst``.
    :raises KlpError: when it is broken, or zstd is not on this machine.
    """
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        process = subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=True)
        return process.stdout
    except FileNotFoundError as error:
        if error.filename != "zstd":
            raise
        raise KlpError(
            "this kernel's modules are compressed with zstd, which is not on this machine",
            where=str(path),
            hint="Install the package zstd.",
        ) from error
    except (lzma.LZMAError, EOFError, OSError, subprocess.CalledProcessError) as error:
        raise KlpError("cannot be decompressed", where=str(path), why=str(error)) from error


def built_modules(tree: Path) -> tuple[Path, ...]:
    """The modules of a build tree, sorted by path, as its ``modules.order`` lists them.

    Its lines end in ``.ko`` or, since 6.2, in ``.o``; before 5.3 they begin with
    ``kernel/``.
    """
    try:
        lines = (tree / "modules.order").read_text().split()
    except OSError:
        return tuple(sorted(tree.rglob("*.ko")))
    named = [Path(line.removeprefix("kernel/")).with_suffix(".ko") for line in lines]
    return tuple(sorted(path for name in named if (path := tree / name).is_file()))
