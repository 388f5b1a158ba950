"""Source patches, read and applied in memory: exactly, or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from unidiff.constants import LINE_TYPE_ADDED, LINE_TYPE_NO_NEWLINE, LINE_TYPE_REMOVED
from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk as ParsedHunk
from unidiff.patch import PatchedFile as ParsedFile
from unidiff.patch import PatchSet

from klpbuild.errors import KlpError, Problems
from klpbuild.patch.makefiles import added_sources, check_makefiles
from klpbuild.patch.patched import PatchedFile, PatchedSource, SourceLine

#: Parts of the source tree that are in no object of the kernel.
_NOT_THE_KERNEL = ("Documentation/", "LICENSES/")
#: Parts with programs of their own, of which the kernel takes only a C file here and there
#: (kernel/bpf/Makefile: ``relo_core.o`` from tools/lib/bpf).
PROGRAMS = ("tools/", "samples/")
_TEXT_SUFFIXES = (".rst", ".txt", ".yaml")
_TEXT_NAMES = ("COPYING", "CREDITS", "MAINTAINERS", "README")

_RUNS_ELSEWHERE = (
    (r"(^|/)vdso(32|64)?/", "is part of the vDSO", "The vDSO runs in user space."),
    (r"^arch/[^/]+/boot/", "is part of the boot code", "It has run before any module is loaded."),
    (r"/realmode/", "is part of the real-mode code", "It is a program of its own."),
    (r"/purgatory/", "is part of kexec's purgatory", "It is a program of its own."),
    (r"^drivers/firmware/efi/libstub/", "is part of the EFI stub", "It has run before the kernel."),
    (r"^(scripts|usr)/", "is part of the build", "It runs where the kernel is built."),
)  # fmt: skip
#: The files in which kbuild looks for a directory's objects.
_MAKEFILE = re.compile(r"/(Makefile|Kbuild)$")
_BUILD_FILES = re.compile(r"(^|/)(Makefile|Kbuild|Kconfig)([._-][^/]*)?$|\.(mk|lds|lds\.S)$")


@dataclass
class _State:
    """A file while the patches are applied."""

    original: bytes | None
    lines: list[SourceLine]
    where: str


@dataclass(frozen=True)
class _HunkLine:
    text: bytes
    was: bool
    stays: bool
    origin: str


@dataclass(frozen=True)
class _Hunk:
    where: str
    start: int
    body: tuple[_HunkLine, ...]

    @property
    def old(self) -> tuple[bytes, ...]:
        return tuple(line.text for line in self.body if line.was)

    @property
    def new(self) -> tuple[bytes, ...]:
        return tuple(line.text for line in self.body if line.stays)

    def apply(self, lines: Sequence[SourceLine], at: int) -> list[SourceLine]:
        """The lines that come in the place of the old ones."""
        before = iter(lines[at:])
        result = []
        for line in self.body:
            old = next(before) if line.was else SourceLine(line.text, None, line.origin)
            if line.stays:
                result.append(old)
        return result


def _places(wanted: Sequence[bytes], lines: Sequence[SourceLine], expected: int) -> list[int]:
    """Places where wanted lines stand: the expected one alone if it is among them."""
    last = len(lines) - len(wanted)

    def stands_at(at: int) -> bool:
        return all(lines[at + i].text == text for i, text in enumerate(wanted))

    if 0 <= expected <= last and stands_at(expected):
        return [expected]
    return [i for i in range(last + 1) if wanted and stands_at(i)]


def apply_patches(patches: Iterable[Path], source: Path, architecture: str = "") -> PatchedSource:
    """Read patches and apply them in order, in memory.

    Every hunk must match the source exactly; it may stand at another line if
    there is one such place only.

    :param patches: ``git format-patch`` or ``diff -u`` files for ``patch -p1``.
    :param source: the kernel's source tree; nothing is written there.
    :param architecture: kbuild's name of it: what is below ``arch/`` and not there is left out.
    :raises KlpError: with everything that is wrong with any of the patches.
    """
    problems = Problems()
    notes: list[str] = []
    states: dict[str, _State] = {}
    for patch in patches:
        with problems.collect():
            for parsed, where in _parse(patch):
                with problems.collect():
                    _apply_file(parsed, where, patch.name, source, architecture, states, notes)
    problems.check()
    changed = [
        PatchedFile(path, state.original, tuple(state.lines), state.where)
        for path, state in sorted(states.items())
    ]
    files = tuple(file for file in changed if not _MAKEFILE.search(file.path))
    makefiles = tuple(file for file in changed if _MAKEFILE.search(file.path))
    check_makefiles(makefiles, added_sources(files))
    _check_changes(files, notes)
    return PatchedSource(files, makefiles, tuple(dict.fromkeys(notes)))


def _parse(patch: Path) -> list[tuple[ParsedFile, str]]:
    """The files of a patch, each with the place of its header."""
    try:
        text = patch.read_bytes().decode("latin-1")
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(patch)) from error
    try:
        files = list(PatchSet(text))
    except UnidiffParseError as error:
        raise KlpError(
            f"is not a whole patch: {error}",
            where=patch.name,
            hint="Make it again with git format-patch or diff -u.",
        ) from error
    if not files:
        raise KlpError(
            "holds no patch",
            where=patch.name,
            hint="A patch is what git format-patch or diff -u prints.",
        )
    headers = [i for i, line in enumerate(text.split("\n"), 1) if line.startswith("diff --git ")]
    placed = []
    for file in files:
        if len(file):
            number = _number(file[0]) - 3
        else:
            number = headers.pop(0) if headers else 1
        headers = [i for i in headers if i > number]
        placed.append((file, f"{patch.name}:{number}"))
    return placed


def _number(hunk: ParsedHunk) -> int:
    """The line of the patch that a hunk's first line stands in."""
    return hunk[0].diff_line_no or 0


def _apply_file(
    parsed: ParsedFile,
    where: str,
    patch: str,
    source: Path,
    architecture: str,
    states: dict[str, _State],
    notes: list[str],
) -> None:
    if parsed.is_rename:
        raise KlpError(
            f"renames {_stripped(parsed.source_file, where)}",
            where=where,
            why="A loaded kernel has no file names; a patch for it changes lines.",
            hint="Make the patch with git format-patch --no-renames, or leave the rename out.",
        )
    target = parsed.source_file if parsed.is_removed_file else parsed.target_file
    path = _stripped(target, where)
    _check_place(path, source, where)
    if (reason := _without_code(path, architecture)) is not None:
        notes.append(f"{where}: {path} {reason}; left out")
        return
    _check_kind(path, where)
    if parsed.is_binary_file:
        raise KlpError(f"{path} is changed as a binary file", where=where)
    if parsed.is_removed_file:
        raise KlpError(
            f"deletes {path}",
            where=where,
            why="A livepatch cannot take code away from a running kernel.",
            hint="Leave the deletion out: unused code does no harm.",
        )
    if not len(parsed):
        notes.append(f"{where}: no line of {path} changes; left out")
        return
    state = states.get(path) or _read(path, source, where, parsed)
    hunks = [_hunk(hunk, patch) for hunk in parsed]
    states[path] = _State(
        state.original, _apply_hunks(hunks, state.lines, path, notes), state.where
    )


def _stripped(name: str, where: str) -> str:
    """A path of a patch without its first directory, as ``-p1`` has it."""
    text = name.encode("latin-1").decode(errors="surrogateescape").strip('"')
    first, slash, rest = text.partition("/")
    if not first or not slash or not rest or rest.startswith("/") or ".." in text.split("/"):
        raise KlpError(
            f"names {text}, which is not a file below the source tree",
            where=where,
            why="Names in a patch are like a/fs/open.c: relative, without '..'.",
            hint="Make the patch in the source tree's top directory, for patch -p1.",
        )
    return str(PurePosixPath(rest))


def _check_place(path: str, source: Path, where: str) -> None:
    place = source
    for part in PurePosixPath(path).parts:
        place = place / part
        if place.is_symlink():
            raise KlpError(
                f"{path} is reached through the symbolic link {place.relative_to(source)}",
                where=where,
                hint="Name the file that the link stands for.",
            )


def _without_code(path: str, architecture: str) -> str | None:
    if architecture and path.startswith("arch/") and not path.startswith(f"arch/{architecture}/"):
        return "is of another architecture"
    if path.startswith(_NOT_THE_KERNEL):
        return "is not part of the kernel"
    if path.startswith(PROGRAMS) and not path.endswith((".c", ".h")):
        return "is not part of the kernel"
    if path.endswith(_TEXT_SUFFIXES) or path in _TEXT_NAMES:
        return "is text"
    return None


def _check_kind(path: str, where: str) -> None:
    for pattern, what, why in _RUNS_ELSEWHERE:
        if re.search(pattern, path):
            raise KlpError(f"{path} {what}", where=where, why=f"{why} It cannot be livepatched.")
    if _MAKEFILE.search(path):
        return
    if _BUILD_FILES.search(path):
        raise KlpError(
            f"{path} decides how the kernel is built",
            where=where,
            why="The running kernel was built already.",
            hint="Leave this file out of the patch.",
        )
    if path.endswith((".S", ".s")):
        raise KlpError(
            f"{path} is assembly",
            where=where,
            why="Only functions that the compiler made have the entry that livepatch needs.",
        )
    if not path.endswith((".c", ".h")):
        raise KlpError(
            f"{path} is not a C file or a header",
            where=where,
            why="A livepatch replaces C functions.",
        )


def _read(path: str, source: Path, where: str, parsed: ParsedFile) -> _State:
    file = source / path
    if file.is_file():
        if parsed.is_added_file:
            raise KlpError(f"adds {path}, which is there already", where=where)
        data = file.read_bytes()
        texts = re.findall(rb"[^\n]*\n|[^\n]+", data)
        lines = [SourceLine(text, number) for number, text in enumerate(texts, 1)]
        return _State(data, lines, where)
    if file.exists():
        raise KlpError(f"{path} is not a file", where=where)
    if parsed.is_added_file or (len(parsed) == 1 and parsed[0].source_length == 0):
        return _State(None, [], where)
    raise KlpError(
        f"changes {path}, which the kernel's source does not have",
        where=where,
        why="Names in a patch are stripped of their first directory, as by patch -p1.",
        hint="Use a patch for this kernel's version.",
    )


def _hunk(parsed: ParsedHunk, patch: str) -> _Hunk:
    lines = [line for line in parsed if line.line_type != LINE_TYPE_NO_NEWLINE]
    ended = {
        id(before) for before, line in pairwise(parsed) if line.line_type == LINE_TYPE_NO_NEWLINE
    }
    body = []
    for line in lines:
        text = line.value.encode("latin-1")
        if id(line) in ended:
            text = text.removesuffix(b"\n")
        body.append(
            _HunkLine(
                text,
                line.line_type != LINE_TYPE_ADDED,
                line.line_type != LINE_TYPE_REMOVED,
                f"{patch}:{line.diff_line_no}",
            )
        )
    where = f"{patch}:{_number(parsed) - 1}"
    start = max(int(parsed.source_start) - (1 if parsed.source_length else 0), 0)
    return _Hunk(where, start, tuple(body))


def _apply_hunks(
    hunks: Sequence[_Hunk], lines: list[SourceLine], path: str, notes: list[str]
) -> list[SourceLine]:
    problems = Problems()
    result = list(lines)
    grown = moved = 0
    for number, hunk in enumerate(hunks, 1):
        expected = hunk.start + grown + moved
        places = _places(hunk.old, result, expected)
        if len(places) != 1:
            _explain(problems, hunk, f"hunk {number} of {path}", result, expected, places)
            continue
        at = places[0]
        if at != expected:
            notes.append(
                f"{hunk.where}: hunk {number} of {path} applies {at - expected:+d} lines off"
            )
            moved += at - expected
        result[at : at + len(hunk.old)] = hunk.apply(result, at)
        grown += len(hunk.new) - len(hunk.old)
    problems.check()
    return result


def _explain(
    problems: Problems,
    hunk: _Hunk,
    name: str,
    lines: Sequence[SourceLine],
    expected: int,
    places: Sequence[int],
) -> None:
    """Say why a hunk does not apply."""
    if places:
        found = ", ".join(str(at + 1) for at in places[:5])
        problems.add(
            f"{name} fits at {len(places)} places (lines {found}) and not at its own",
            where=hunk.where,
            hint="Make the patch again against this kernel's source.",
        )
        return
    if hunk.new and _places(hunk.new, lines, expected):
        problems.add(
            f"{name} is in the kernel's source already",
            where=hunk.where,
            hint="Leave it out, or choose the kernel that lacks it.",
        )
        return
    context = [line.was and line.stays for line in hunk.body]
    for fuzz in (1, 2):
        head = min(fuzz, [*context, False].index(False))
        tail = min(fuzz, [*context[::-1], False].index(False))
        core = hunk.old[head : len(hunk.old) - tail]
        if core and _places(core, lines, expected + head):
            problems.add(
                f"{name} applies only with fuzz {fuzz}",
                where=hunk.where,
                why="The lines around the change differ: it may end up in the wrong place.",
                hint="Make the patch again against this kernel's source.",
            )
            return
    problems.add(
        f"{name} does not apply",
        where=hunk.where,
        why="The lines that it changes are not in this kernel's source.",
        hint="Use the fix that was made for this kernel's version.",
    )


_TOKENS = re.compile(
    rb"(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    rb"|(?://(?:[^\n\\]|\\.)*|/\*.*?\*/|\\\r?\n|[ \t\r\f\v]+)+",
    re.DOTALL,
)


def without_comments(text: bytes) -> bytes:
    """C source with comments and runs of white space as one blank, for comparing."""
    lines = _TOKENS.sub(lambda match: match[1] or b" ", text).split(b"\n")
    return b"\n".join(line.strip() for line in lines if line.strip())


def _check_changes(files: Sequence[PatchedFile], notes: Sequence[str]) -> None:
    if not files:
        raise KlpError(
            "the patch changes no code",
            why="\n".join(notes),
            hint="There is nothing that a livepatch could replace.",
        )
    if all(
        without_comments(file.original or b"") == without_comments(file.patched) for file in files
    ):
        raise KlpError(
            "the patch changes only comments and white space",
            where=files[0].where,
            hint="There is nothing that a livepatch could replace.",
        )
