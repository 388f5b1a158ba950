"""Read the livepatches that a user asks for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems, did_you_mean
from klpbuild.kernel.tree import Kernel
from klpbuild.module.config import read_livepatch
from klpbuild.module.livepatch import FILE_NAME, Livepatch
from klpbuild.patch.series import SERIES, read_series
from klpbuild.userfiles import check_file_name, check_file_names


@dataclass(frozen=True)
class Chosen:
    """A livepatch that the user asks for.

    :ivar directory: where it is described.
    :ivar patches: source patches that it is made from, in their order; then it has no sources.
    :ivar file: its ``livepatch.toml``, if it has one.
    :ivar skipped: source patches that it leaves out on purpose, each with the reason.
    """

    directory: Path
    livepatch: Livepatch
    patches: tuple[Path, ...] = ()
    file: Path | None = None
    skipped: Mapping[Path, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The file's name without suffix, ``livepatch-meminfo``."""
        return self.livepatch.stem

    @property
    def description(self) -> Path | None:
        """Its ``livepatch.toml``, if it has one that tables are made from."""
        return None if self.livepatch.own_tables else self.file


def known_livepatches(directory: Path) -> tuple[str, ...]:
    """List the names of the livepatches in a directory, sorted.

    :raises KlpError: when it cannot be read, or has a name that cannot be shown.
    """
    for each in (directory, *directory.parents):
        check_file_name(each)
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    return tuple(e.name for e in entries if e.is_dir() and _is_livepatch(e))


def _is_livepatch(directory: Path) -> bool:
    return (directory / FILE_NAME).exists() or any(
        any(directory.glob(pattern)) for pattern in ("*.c", "*.patch", SERIES)
    )


@dataclass(frozen=True)
class Named:
    """A livepatch that an option names.

    :ivar by_name: False if it is there because all are.
    :ivar chosen: None if it cannot be read.
    :ivar error: why not.
    """

    name: str
    by_name: bool
    chosen: Chosen | None
    error: KlpError | None = None

    def is_for(self, kernel: Kernel) -> bool:
        """Tell whether it is for a kernel, as far as it can be read."""
        return self.chosen is None or self.chosen.livepatch.is_for(kernel.name, kernel.release)


def named_livepatches(directory: Path, names: str) -> tuple[Named, ...]:
    """Read the livepatches that an option names, for whatever kernel.

    :param names: names with commas between, or ``all``.
    :raises KlpError: when the directory cannot be read, or none is named.
    """
    known = known_livepatches(directory)
    everything = names == "all"
    wanted = known if everything else tuple(dict.fromkeys(n for n in names.split(",") if n))
    if not wanted:
        raise KlpError("no livepatch is named", where=str(directory), hint="livepatch=NAME")
    found = []
    for name in wanted:
        try:
            found.append(Named(name, not everything, _read(directory, name, known)))
        except KlpError as error:
            found.append(Named(name, not everything, None, error))
    return tuple(found)


def with_replace(named: Sequence[Named], replaces: bool) -> tuple[Named, ...]:
    """Set REPLACE in livepatches, in place of their own setting.

    Where a source brings its own tables, nothing can be put in place: that is an error.
    """
    return tuple(_with_replace(each, replaces) for each in named)


def _with_replace(named: Named, replaces: bool) -> Named:
    if named.chosen is None:
        return named
    livepatch = named.chosen.livepatch
    if livepatch.own_tables:
        error = KlpError(
            "has a struct klp_patch of its own, which REPLACE cannot change",
            where=str(named.chosen.directory),
            hint="Set its .replace, or leave REPLACE out.",
        )
        return replace(named, chosen=None, error=error)
    return replace(
        named, chosen=replace(named.chosen, livepatch=replace(livepatch, replace=replaces))
    )


def _read(directory: Path, name: str, known: tuple[str, ...]) -> Chosen:
    if name not in known:
        raise KlpError(
            f"livepatch {name!r} is not known",
            where=str(directory),
            why=did_you_mean(name, known),
            hint=f"Known: {', '.join(known) or 'none'}.",
        )
    patches = _patches(directory / name)
    check_file_names(patches)
    livepatch = read_livepatch(directory / name, patches=bool(patches))
    if patches and livepatch.sources:
        raise KlpError(
            "has C files and patches",
            where=str(directory / name),
            why="A livepatch is made from one or the other.",
            hint="Put them into two directories.",
        )
    skipped = _skipped(livepatch, patches)
    taken = tuple(patch for patch in patches if patch not in skipped)
    file = directory / name / FILE_NAME
    return Chosen(directory / name, livepatch, taken, file if file.exists() else None, skipped)


def _skipped(livepatch: Livepatch, patches: Sequence[Path]) -> dict[Path, str]:
    """List the patches that a description leaves out, each with the reason.

    :raises KlpError: for a name that no patch has, or when none is left.
    """
    problems = Problems()
    by_name = {patch.name: patch for patch in patches}
    found = {}
    for each in livepatch.skip:
        if each.patch in by_name:
            found[by_name[each.patch]] = each.reason
            continue
        problems.add(
            f"skip names {each.patch!r}, which is not one of the patches",
            where=each.where,
            hint=did_you_mean(each.patch, by_name) or "Take it out.",
        )
    if patches and len(found) == len(patches):
        problems.add("skip leaves out all patches", where=livepatch.skip[0].where)
    problems.check()
    return found


def _patches(directory: Path) -> tuple[Path, ...]:
    """List the patches of a livepatch, in the order of its series file, or of their names.

    :raises KlpError: for a series file that leaves out patches, or names what is not there.
    """
    there = sorted(directory.glob("*.patch"))
    series = directory / SERIES
    if not series.is_file():
        return tuple(there)
    listed = tuple(each.path for each in read_series(series))
    if left := [path.name for path in there if path not in listed]:
        raise KlpError(
            f"does not name {', '.join(left[:5])}",
            where=str(series),
            why="A patch beside it would be left out without a word.",
            hint="Name it, or move it away.",
        )
    return listed
