"""Read the livepatches that a user asks for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems, did_you_mean, reading
from klpbuild.files.given import check_file_name, check_file_names, is_file
from klpbuild.files.whole import check_kinds
from klpbuild.kernel.tree import Kernel
from klpbuild.module.accepted import Accepted
from klpbuild.module.config import Made, read_livepatch
from klpbuild.module.listed import LIST
from klpbuild.module.livepatch import FILE_NAME, Livepatch, PartName, PatchedObject
from klpbuild.module.owntables import brings_own_tables
from klpbuild.module.parts import merged, merged_accepted, merged_objects
from klpbuild.patch.fix import Fault
from klpbuild.patch.series import SERIES, directories_of, read_series
from klpbuild.request.comment import with_comment


@dataclass(frozen=True)
class Chosen:
    """A livepatch that the user asks for.

    :ivar directory: where it is described.
    :ivar livepatch: with what its parts say.
    :ivar patches: source patches that it is made from, in their order; only with parts there are
        sources, too.
    :ivar file: its ``livepatch.toml``, if it has one.
    :ivar skipped: source patches that it leaves out on purpose, each with the reason.
    :ivar listed: all source patches in their order, those that are left out among them.
    :ivar parts: what it is made of, if it is made of parts; its own C files are the first.
    """

    directory: Path
    livepatch: Livepatch
    patches: tuple[Path, ...] = ()
    file: Path | None = None
    skipped: Mapping[Path, str] = field(default_factory=dict)
    listed: tuple[Path, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def module(self) -> str:
        """The file's name without suffix, ``livepatch-meminfo``."""
        return self.livepatch.stem

    @property
    def description(self) -> Path | None:
        """Its ``livepatch.toml``, if it has one that tables are made from."""
        return None if self.livepatch.own_tables else self.file

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files that describe it and its parts."""
        each = (self.file, *(part.chosen.file for part in self.parts if part.name))
        return tuple(file for file in each if file is not None)

    @property
    def accepted(self) -> Accepted:
        """Return what is accepted of the source patches."""
        parts = [p.chosen for p in self.parts if p.taken and (p.chosen.patches or not p.name)]
        return merged_accepted(each.livepatch.accepted for each in parts or (self,))

    @property
    def callbacks(self) -> tuple[PatchedObject, ...]:
        """Return the objects whose callbacks are functions that the source patches add."""
        parts = [p.chosen for p in self.parts if p.taken and p.chosen.patches]
        each = parts if self.parts else (self,)
        return merged_objects(patched for c in each for patched in c.livepatch.objects)

    def accepted_layouts(self, source: Path) -> tuple[str, ...]:
        """Return the structures that a C file may lay out otherwise than the kernel."""
        part = self.part_of(source)
        if part is None:
            return self.livepatch.accepted.layouts
        each = (self.parts[0], part)
        return merged_accepted(p.chosen.livepatch.accepted for p in each).layouts

    def part_of(self, source: Path) -> Part | None:
        """Find the part that a C file belongs to, if there are parts."""
        return next((p for p in self.parts if source in p.chosen.livepatch.sources), None)


@dataclass(frozen=True)
class Part:
    """A part of a livepatch: a directory with C files or source patches.

    :ivar name: the directory's; empty for the C files of the livepatch itself.
    :ivar why_not: why it is left out on purpose; None if it is in.
    :ivar faults: what is wrong with it, so that it is left out.
    """

    name: str
    chosen: Chosen
    why_not: str | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def taken(self) -> bool:
        """Tell whether it is in the livepatch."""
        return self.why_not is None and not self.faults


def known_livepatches(directory: Path) -> tuple[str, ...]:
    """List the names of the livepatches in a directory, sorted.

    :raises KlpError: when it cannot be read, or has a name that cannot be shown.
    """
    for each in (directory, *directory.parents):
        check_file_name(each)
    with reading(directory):
        entries = sorted(directory.iterdir())
    return tuple(e.name for e in entries if e.is_dir() and _is_livepatch(e))


def _is_livepatch(directory: Path) -> bool:
    return (directory / FILE_NAME).exists() or any(
        any(directory.glob(pattern)) for pattern in ("*.c", "*.patch", SERIES, LIST)
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
    if is_file(directory / name / LIST):
        raise KlpError(
            f"has a {LIST}, and is not a part of a livepatch",
            where=str(directory / name),
            hint=f'Put it into a directory whose {FILE_NAME} says parts = ["{name}"].',
        )
    listed = _parts_in(directory / name / SERIES)
    if listed:
        own = _read_one(directory / name, Made.PARTS)
        if own.livepatch.parts:
            raise KlpError(
                "names the parts, too",
                where=listed[0].where,
                why=f"{own.livepatch.parts[0].where} names them already.",
                hint="Take parts out of one of the two.",
            )
    else:
        own = _read_one(directory / name)
    return _whole(own, listed or own.livepatch.parts)


def _parts_in(series: Path) -> tuple[PartName, ...]:
    """Read the directories that a series file names."""
    return tuple(PartName(name, where) for name, where in directories_of(series))


def _read_one(directory: Path, made: Made | None = None, *, is_part: bool = False) -> Chosen:
    """Read the livepatch of a directory, or a part of one, without regard to parts of its own.

    :param made: what from, if it is known.
    """
    check_kinds(directory)
    whole = made is Made.PARTS
    patches = tuple(sorted(directory.glob("*.patch"))) if whole else _patches(directory)
    check_file_names(patches)
    made = made or (Made.PATCHES if patches else Made.SOURCES)
    livepatch = read_livepatch(directory, made, is_part=is_part)
    whole = whole or bool(livepatch.parts)
    if patches and livepatch.sources and not whole:
        raise KlpError(
            "has C files and patches",
            where=str(directory),
            why="A livepatch is made from one or the other, or of parts.",
            hint="Put them into two directories, and name these in parts.",
        )
    skipped = {} if whole else _skipped(livepatch, patches)
    taken = tuple(patch for patch in patches if patch not in skipped)
    file = directory / FILE_NAME
    there = file if file.exists() else None
    return Chosen(directory, livepatch, taken, there, skipped, patches)


def _whole(own: Chosen, names: Sequence[PartName]) -> Chosen:
    """Read the parts that a livepatch names.

    :raises KlpError: with everything that is wrong with them.
    """
    if not names:
        return own
    problems = Problems()
    if own.listed:
        problems.add(
            f"{own.listed[0].name} stands beside parts",
            where=str(own.directory),
            why="Nothing says when it is applied.",
            hint="Put it into a part.",
        )
    if own.livepatch.own_tables:
        found = next(s for s in own.livepatch.sources if brings_own_tables(s))
        problems.note(_tables_in_parts(found))
    _check_names(own, names, problems)
    skip = {each.patch: each.reason for each in own.livepatch.skip}
    parts = [Part("", own)]
    for each in names if not problems else ():
        with problems.collect():
            parts.append(Part(each.name, _read_part(own, each), skip.get(each.name)))
    problems.check()
    _check_patches(parts, problems)
    problems.check()
    return joined(own, parts)


def joined(own: Chosen, parts: Sequence[Part]) -> Chosen:
    """Make a livepatch of its parts.

    :param own: what it says itself.
    :param parts: its own C files are the first.
    :raises KlpError: for functions that two of them replace.
    """
    taken = [part.chosen for part in parts if part.taken]
    skipped = {
        patch: part.chosen.skipped.get(patch, part.why_not or "")
        for part in parts
        for patch in part.chosen.listed
        if patch in part.chosen.skipped or not part.taken
    }
    return replace(
        own,
        livepatch=merged(parts[0].chosen.livepatch, [each.livepatch for each in taken[1:]]),
        patches=tuple(patch for each in taken for patch in each.patches),
        skipped=skipped,
        listed=tuple(patch for part in parts for patch in part.chosen.listed),
        parts=tuple(parts),
    )


def _read_part(own: Chosen, name: PartName) -> Chosen:
    directory = own.directory / name.name
    if within := _parts_in(directory / SERIES):
        raise KlpError("is a part, and has parts", where=within[0].where, hint="Name all in one.")
    made = Made.LIST if is_file(directory / LIST) else None
    part = _read_one(directory, made, is_part=True)
    if made is Made.LIST:
        part = replace(part, livepatch=with_comment(part.livepatch))
    if part.livepatch.own_tables:
        sources = part.livepatch.sources
        raise _tables_in_parts(next(s for s in sources if brings_own_tables(s)))
    return part


def _tables_in_parts(source: Path) -> KlpError:
    return KlpError(
        "brings its own struct klp_patch",
        where=str(source),
        why="A livepatch of parts has one, which klpbuild makes.",
        hint=f"Name in {source.parent / FILE_NAME} what it replaces, and take the tables out,\n"
        "or name in sources the C files that are to be built.",
    )


def _check_names(own: Chosen, names: Sequence[PartName], problems: Problems) -> None:
    """Check that the names of parts and of those left out are those of the directories."""
    there = [e.name for e in sorted(own.directory.iterdir()) if e.is_dir() and _is_livepatch(e)]
    seen: dict[str, PartName] = {}
    for each in names:
        if each.name in seen:
            problems.add(f"part {each.name!r} is named twice", where=each.where)
        elif each.name not in there:
            problems.add(
                f"part {each.name!r} is not a directory with patches or C files",
                where=each.where,
                hint=did_you_mean(each.name, there) or f"Write {own.directory / each.name}/.",
            )
        seen[each.name] = each
    skipped = {each.patch for each in own.livepatch.skip}
    if left := [name for name in there if name not in seen and name not in skipped]:
        problems.add(
            f"does not name {', '.join(left[:5])}",
            where=names[0].where,
            why="A part beside the others would be left out without a word.",
            hint='Name it in parts; skip = [{ part = "x", reason = "..." }] leaves it out.',
        )
    for left_out in own.livepatch.skip:
        if left_out.patch not in seen and left_out.patch not in there:
            problems.add(
                f"skip names {left_out.patch!r}, which is not one of the parts",
                where=left_out.where,
                hint=did_you_mean(left_out.patch, seen) or "Take it out.",
            )
    if seen.keys() <= skipped:
        problems.add("skip leaves out all parts", where=own.livepatch.skip[0].where)


def _check_patches(parts: Sequence[Part], problems: Problems) -> None:
    """Check that no two patches have one name: they are told apart by it."""
    seen: dict[str, Path] = {}
    for path in (path for part in parts for path in part.chosen.listed):
        if other := seen.get(path.name):
            problems.add(
                "has the name of a patch of another part",
                where=str(path),
                why=f"The other one: {other}.",
                hint="Rename one of them.",
            )
        seen[path.name] = path


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
