"""The livepatches that a user asks for by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.module.config import read_livepatch
from klpbuild.module.livepatch import FILE_NAME, Livepatch, check_for_kernel


@dataclass(frozen=True)
class Chosen:
    """A livepatch that the user asks for.

    :ivar directory: where it is described.
    :ivar patches: source patches that it is made from, in their order; then it has no sources.
    """

    directory: Path
    livepatch: Livepatch
    patches: tuple[Path, ...] = ()

    @property
    def module(self) -> str:
        """The file's name without suffix, ``livepatch-meminfo``."""
        return self.livepatch.stem

    @property
    def description(self) -> Path | None:
        """Its ``livepatch.toml``, if it has one that tables are made from."""
        path = self.directory / FILE_NAME
        return path if path.exists() and not self.livepatch.own_tables else None


def known_livepatches(directory: Path) -> tuple[str, ...]:
    """The names of the livepatches in a directory, sorted.

    :raises KlpError: when it cannot be read.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    return tuple(e.name for e in entries if e.is_dir() and _is_livepatch(e))


def _is_livepatch(directory: Path) -> bool:
    return (directory / FILE_NAME).exists() or any(
        any(directory.glob(pattern)) for pattern in ("*.c", "*.patch")
    )


def choose_livepatches(directory: Path, names: str, kernel: Kernel) -> tuple[Chosen, ...]:
    """The livepatches that an option names.

    :param names: names with commas between, or ``all``, which leaves out those
        that are for other kernels.
    :raises KlpError: for unknown names, and for each livepatch that cannot be read.
    """
    known = known_livepatches(directory)
    wanted = known if names == "all" else tuple(n for n in names.split(",") if n)
    problems = Problems()
    chosen = []
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            problems.add(
                f"livepatch {name!r} is not known",
                where=str(directory),
                why=f"Did you mean {near[0]}?" if near else "",
                hint=f"Known: {', '.join(known) or 'none'}.",
            )
            continue
        with problems.collect():
            patches = tuple(sorted((directory / name).glob("*.patch")))
            livepatch = read_livepatch(directory / name, patches=bool(patches))
            if names == "all" and not livepatch.is_for(kernel.name, kernel.release):
                continue
            check_for_kernel(livepatch, kernel.name, kernel.release)
            if patches and livepatch.sources:
                raise KlpError(
                    "has C files and patches",
                    where=str(directory / name),
                    why="A livepatch is made from one or the other.",
                    hint="Put them into two directories.",
                )
            chosen.append(Chosen(directory / name, livepatch, patches))
    problems.check()
    if not chosen:
        raise KlpError("no livepatch is named", where=str(directory), hint="livepatch=NAME")
    return tuple(chosen)
