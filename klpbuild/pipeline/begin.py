"""Begin a livepatch: write a directory with the functions to change and what they need."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from klpbuild.compiler.driver import compile_source
from klpbuild.compiler.log import BuildLog
from klpbuild.errors import KlpError, Problems, did_you_mean
from klpbuild.excerpt.excerpt import Excerpt, Place, Reach, Source, excerpt
from klpbuild.excerpt.finder import find_definition
from klpbuild.excerpt.shadowed import added_members, with_shadows
from klpbuild.excerpt.skeleton import skeleton
from klpbuild.files.given import PATCH_MAX, check_file_names, read_given_file
from klpbuild.files.whole import make_directory, write_file
from klpbuild.kernel.cache import aside
from klpbuild.kernel.prepare import check_patches
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.module.config import read_livepatch
from klpbuild.module.livepatch import FILE_NAME, Function, check_name
from klpbuild.module.old_functions import check_old_functions
from klpbuild.names import VMLINUX, object_name
from klpbuild.patch.pair import compile_patch
from klpbuild.patch.patched import PatchedSource
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.units import Units
from klpbuild.pipeline import steps
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.paths import Paths
from klpbuild.pipeline.table import livepatch_steps, run_steps, steps_to
from klpbuild.request.chosen import Chosen
from klpbuild.symbols.database import Candidate, SymbolDatabase

#: Limit on attempts to leave out headers that do not compile.
_TRIES = 4
_REFERENCES = "references = []  # such as CVE-2024-1234"


@dataclass(frozen=True)
class Wanted:
    """A function to change.

    :ivar object: vmlinux or a module.
    :ivar function: its name in the object's symbol table.
    :ivar position: 0 if the name is unique there, else its place among those of the name.
    """

    object: str
    function: str
    position: int = 0

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Read ``OBJECT:FUNCTION[,POSITION]``.

        :raises KlpError: for other text.
        """
        match = re.fullmatch(r"([^:,\s]+):([A-Za-z_][\w.$]*)(?:,(\d{1,9}))?", text)
        if not match:
            raise KlpError(
                f"function {text!r} cannot be read",
                hint="Write OBJECT:FUNCTION, such as vmlinux:meminfo_proc_show,\n"
                "and ,POSITION behind it when the object has several of that name.",
            )
        return cls(object_name(match[1]), match[2], int(match[3] or 0))

    @property
    def plain(self) -> str:
        """The name in the source; a compiler's clone has a suffix."""
        return self.function.partition(".")[0]

    @property
    def new(self) -> str:
        """The name of the livepatch's version."""
        return f"livepatch_{self.plain}"


@dataclass(frozen=True)
class Begun:
    """A livepatch that was begun.

    :ivar directory: where it is.
    :ivar files: its files, each with what is in it.
    :ivar doubts: what the author should look at.
    :ivar problem: why it does not build yet; empty when it does.
    """

    directory: Path
    files: Mapping[str, str]
    doubts: tuple[str, ...]
    problem: str


def begin_with_functions(
    kernel: Kernel,
    symbols: Path,
    directory: Path,
    wanted: Sequence[Wanted],
    file: str | None = None,
) -> Begun:
    """Write a livepatch with functions as they are now, and build it once for trial.

    :param symbols: the kernel's symbols.klp.
    :param directory: the livepatch's own; its name is the livepatch's.
    :param file: the file of the source that defines the functions; None: it is looked for.
    :raises KlpError: when the directory is there, or a function cannot be replaced.
    """
    _check_new(directory)
    database = SymbolDatabase.read(symbols)
    found = _checked(kernel, database, wanted)
    files: dict[str, list[Wanted]] = {}
    without: list[tuple[Wanted, str]] = []
    for one in wanted:
        try:
            path = file or find_definition(kernel, one.object, one.plain, found[one].file)
            files.setdefault(path, []).append(one)
        except KlpError as error:
            if "files" in error.problems[0].what:
                raise
            without.append((one, error.problems[0].what))
    texts: dict[str, str] = {}
    told: dict[str, str] = {}
    doubts: list[str] = []
    copied = bool(files)
    for one in wanted:
        if one.function != one.plain:
            doubts.append(
                f"{one.function} is the compiler's clone: its arguments may differ from the source"
            )
    for path, ones in files.items():
        name = _file_name(path, texts)
        made = _excerpt(kernel, database, path, ones)
        texts[name] = made.text
        told[name] = f"{', '.join(one.plain for one in ones)} from {path}"
        doubts += made.doubts
    for one, why in without:
        name = _file_name(f"{one.plain}.c", texts)
        texts[name] = skeleton(kernel, one.object, one.plain, one.new)
        told[name] = f"a skeleton for {one.function}: {why}"
    texts[FILE_NAME] = _description(kernel, wanted, copied)
    problem = _write(kernel, symbols, directory, texts)
    return Begun(directory, told, tuple(doubts), problem)


def begin_with_patches(kernel: Kernel, directory: Path, patches: Sequence[Path]) -> Begun:
    """Write a livepatch that is made from source patches.

    Members that they add to structures, and for which there is no room, become shadow variables.

    :raises KlpError: when the directory is there, or the patches do not apply to the
        kernel's source.
    """
    _check_new(directory)
    check_patches(kernel)
    check_file_names(patches)
    patched = apply_patches(patches, source_tree(kernel))
    read = {path.name: read_given_file(path, PATCH_MAX) for path in patches}
    texts = {name: data.decode(errors="surrogateescape") for name, data in read.items()}
    if len(texts) < len(patches):
        raise KlpError("two patches have one name", hint="Rename one of them.")
    changed = ", ".join(file.path for file in patched.files)
    title = ", ".join(path.stem for path in patches)
    description = f'description = "{_quoted(title)}"\n{_REFERENCES}\n'
    told = {path.name: "a copy" for path in patches[:-1]}
    told[patches[-1].name] = f"changes {changed}"
    doubts: tuple[str, ...] = ()
    if names := _without_room(kernel, patches, patched):
        shadowed = with_shadows(patched.files, names)
        name = patches[-1].name
        header = re.split(r"(?m)^(?:diff |--- )", texts[patches[0].name])[0]
        texts = {name: header + shadowed.patch(patched.files).decode(errors="surrogateescape")}
        told = {name: f"changes {changed}; shadow variables beside {', '.join(names)}"}
        doubts = (*shadowed.doubts, f"where else a {' or a '.join(names)} is freed")
        units = Units.read(kernel)
        for end, path in shadowed.ends:
            owner = next((unit.owner for unit in units.compiled_from(path)), VMLINUX)
            description += f'\n[[object]]\nname = "{owner}"\n'
            description += f'callbacks = {{ post_unpatch = "{end}" }}\n'
    texts[FILE_NAME] = description
    _write(None, None, directory, texts)
    return Begun(directory, told, doubts, "")


def _without_room(
    kernel: Kernel, patches: Sequence[Path], patched: PatchedSource
) -> tuple[str, ...]:
    """Find the structures for whose new members there is no room in the kernel's own."""
    declared = {
        name
        for file in patched.files
        for name in re.findall(r"\bstruct \w+(?=\s*\{)", file.patched.decode(errors="replace"))
        if added_members(file, name)
    }
    if not declared or kernel.vmlinux is None:
        return ()
    with tempfile.TemporaryDirectory(prefix="klpbuild-new-") as work:
        try:
            compile_patch(kernel, patches, Path(work), lambda line: None)
        except KlpError as error:
            said = [problem.what for problem in error.problems]
            return tuple(sorted(n for n in declared if any(w.startswith(f"{n} ") for w in said)))
    return ()


def _check_new(directory: Path) -> None:
    check_name(directory.name)
    if directory.exists():
        raise KlpError(
            "is there already", where=str(directory), hint="Take another name, or remove it."
        )


def _checked(
    kernel: Kernel, database: SymbolDatabase, wanted: Sequence[Wanted]
) -> dict[Wanted, Candidate]:
    """Find each function's symbol.

    :raises KlpError: for all that the kernel does not have or cannot redirect.
    """
    problems = Problems()
    entries = steps.entry_points(kernel, database)
    found = {}
    for one in wanted:
        if one.object not in database.objects:
            problems.add(
                f"object {one.object!r} is not in this kernel",
                where="--function",
                why=did_you_mean(one.object, database.objects, 0.75),
                hint="It may be built in: then its functions belong to vmlinux.  "
                "--modules names further modules.",
            )
            continue
        candidates = database.in_object(one.object, one.function)
        if len(candidates) > 1 and not one.position:
            problems.add(
                f"{one.object} has {len(candidates)} functions {one.function}",
                why="Only the author knows which one is meant.  Write one of these:",
                hint="\n".join(_choice(candidate) for candidate in candidates),
            )
            continue
        before = len(problems)
        function = Function(one.function, one.new, one.position, "--function")
        check_old_functions([(one.object, function)], database, entries, problems)
        if len(problems) == before:
            found[one] = candidates[max(one.position, 1) - 1]
    problems.check()
    return found


def _choice(candidate: Candidate) -> str:
    place = "" if candidate.address is None else f", address 0x{candidate.address:x}"
    word = f"--function {candidate.object}:{candidate.symbol},{candidate.position}"
    return f"{word}  # {candidate.file or 'file unknown'}{place}"


def _file_name(path: str, taken: Mapping[str, str]) -> str:
    name = path.rpartition("/")[2]
    return name if name not in taken else path.replace("/", "-")


def _excerpt(
    kernel: Kernel, database: SymbolDatabase, path: str, ones: Sequence[Wanted]
) -> Excerpt:
    """Make the excerpt with as few headers beside the source as it compiles with."""
    source = Source(path, source_tree(kernel))
    owner = ones[0].object
    place = _Places(database, owner, path.rpartition("/")[2])
    names = {one.plain: one.new for one in ones}
    heading = (
        f"{', '.join(names)} of {owner}, as in {path} of Linux {kernel.release}.\n"
        f"Change {', '.join(names.values())}.  What is declared extern is the kernel's own."
    )
    made = []
    for local_headers in (False, True):
        without: frozenset[str] = frozenset()
        for _ in range(_TRIES):
            made.append(
                excerpt(
                    source,
                    names,
                    place,
                    heading=heading,
                    local_headers=local_headers,
                    without=without,
                )
            )
            wrong = _wrong_includes(kernel, made[-1].text)
            if wrong is None:
                return made[-1]
            if wrong <= without:
                break
            without |= wrong
    return made[-1]


class _Places:
    """Chooses how a livepatch reaches the names of one file."""

    def __init__(self, database: SymbolDatabase, owner: str, file: str) -> None:
        self.database, self.owner, self.file = database, owner, file

    def __call__(self, name: str, static_code: bool) -> Place:
        found = self.database.in_object(self.owner, name)
        mine = [c for c in found if c.file == self.file or (c.file is None and not static_code)]
        if len(mine) != 1 or mine[0].init or mine[0].unstable:
            return Place(Reach.COPY)
        if len(found) == 1:
            return Place(Reach.RELOCATION)
        place = f"{self.owner}, {self.owner}, {name}, {mine[0].position}"
        return Place(Reach.RELOCATION, f" KLP_RELOC_SYMBOL({place})")


def _wrong_includes(kernel: Kernel, text: str) -> frozenset[str] | None:
    """Find the ``#include`` lines below which the compiler finds errors; None without an error.

    Some headers, such as asm/tlb.h, are not for modules.
    """
    with tempfile.TemporaryDirectory(prefix="klpbuild-new-") as name:
        source = Path(name, "excerpt.c")
        source.write_text(text)
        try:
            compile_source(kernel, source, source.with_suffix(".o"), module_name="livepatch")
        except KlpError as error:
            numbers = re.findall(r"from (?:\S*/)?excerpt\.c:(\d+)", str(error))
            lines = text.splitlines()
            return frozenset(lines[int(number) - 1] for number in numbers)
    return None


def _description(kernel: Kernel, wanted: Sequence[Wanted], copied: bool) -> str:
    names = ", ".join(one.function for one in wanted)
    lines = [f'description = "{names}"', _REFERENCES]
    if copied:
        lines += ["# The source was taken from this kernel; another one may differ.",
                  f'kernels = ["{kernel.name}"]']  # fmt: skip
    objects: dict[str, list[Wanted]] = {}
    for one in wanted:
        objects.setdefault(one.object, []).append(one)
    for name, ones in objects.items():
        lines += ["", "[[object]]", f'name = "{name}"', "functions = ["]
        for one in ones:
            position = f", sympos = {one.position}" if one.position else ""
            lines.append(f'    {{ old = "{one.function}", new = "{one.new}"{position} }},')
        lines.append("]")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return re.sub(r'["\\]', "", text)


def _write(
    kernel: Kernel | None, symbols: Path | None, directory: Path, texts: Mapping[str, str]
) -> str:
    """Write all files aside, build them for trial, then rename the directory.

    :returns: why it does not build; empty when it does.
    """
    problem = ""
    try:
        make_directory(directory.parent)
        with aside(directory) as making:
            made = making / directory.name
            made.mkdir()
            for name, text in texts.items():
                write_file(made / name, text.encode(errors="surrogateescape"))
            if kernel is not None and symbols is not None:
                problem = _trial(kernel, symbols, made).replace(f"{made}/", "")
            made.rename(directory)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise KlpError(what, where=str(directory.parent)) from error
    return problem


def _trial(kernel: Kernel, symbols: Path, directory: Path) -> str:
    """Build for trial; return the error, empty without one."""
    with tempfile.TemporaryDirectory(prefix="klpbuild-new-") as name:
        try:
            _build(kernel, symbols, directory, Path(name))
        except KlpError as error:
            return str(error)
    return ""


def _build(kernel: Kernel, symbols: Path, directory: Path, work: Path) -> None:
    chosen = Chosen(directory, read_livepatch(directory), file=directory / FILE_NAME)
    paths = Paths(work, chosen.module, symbols)
    build = Build(kernel, chosen, paths, BuildLog(work / "build.log"))
    run_steps(steps_to(livepatch_steps(build), paths.module), work)


def lines(begun: Begun, kernel: str, *, bootable: bool) -> Iterator[str]:
    """Write what to tell the author.

    :param kernel: as the user names it.
    :param bootable: whether that kernel can be booted.
    """
    for name, told in begun.files.items():
        yield f"{begun.directory / name}: {told}"
    for doubt in begun.doubts:
        yield f"  look at it: {doubt}"
    yield f"Edit it, then: {build_command(begun, kernel, bootable=bootable)}"


def build_command(begun: Begun, kernel: str, *, bootable: bool) -> str:
    """Write the command that builds it; see `lines`."""
    words = f"livepatches={begun.directory.parent} livepatch={begun.directory.name}"
    return f"./scons {words} kernel={kernel}{' boot' if bootable else ''}"
