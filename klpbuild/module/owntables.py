"""Detect from C text whether sources bring a livepatch's tables themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.given import is_file, read_given_file
from klpbuild.module.livepatch import FILE_NAME
from klpbuild.patch.csource import without_comments
from klpbuild.reach import reached

#: No C file of a kernel is half as large.
_SIZE_MAX = 1 << 26
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)
_ENABLES = re.compile(r"\bklp_enable_patch\s*\(")
_TABLE = re.compile(r"\bstruct\s+klp_patch\s+\w+\s*=")
_START = re.compile(r"\b(?:module_init|init_module)\s*\(")


def brings_own_tables(source: Path) -> bool:
    """Tell whether the text of a C file, or of files that it includes, starts a livepatch.

    Macros count where they are defined.  An included C file that is not found, as one of the
    kernel's source is not, is taken for one that does: the compiled objects tell.

    :raises KlpError: when it cannot be read.
    """
    texts = [starts_livepatch(path) for path in (source, *included_files(source))]
    return any(texts) or any(name.endswith(".c") for name in _not_found(source))


def starts_livepatch(path: Path) -> bool:
    """Tell whether the text of a file alone starts a livepatch.

    :raises KlpError: when it cannot be read.
    """
    code = code_of(path)
    return bool(_ENABLES.search(code) or (_TABLE.search(code) and _START.search(code)))


def included_files(source: Path) -> tuple[Path, ...]:
    """Find the files that a C file includes, beside their includer or beside the C file.

    :raises KlpError: when one of them cannot be read.
    """

    def included(path: Path) -> Iterator[Path]:
        for _, file in _includes(path, source.parent):
            if file is not None and file != source.resolve():
                yield file

    _, *found = reached([source], included)
    return tuple(found)


def separate_sources(sources: Sequence[Path]) -> tuple[Path, ...]:
    """Select the C files that are compiled each alone: not those that another one includes.

    :raises KlpError: when one of them cannot be read.
    """
    included = {path for source in sources for path in included_files(source)}
    return tuple(s for s in sources if s.resolve() not in included) or tuple(sources)


def _not_found(source: Path) -> list[str]:
    files = (source, *included_files(source))
    return [n for file in files for n, path in _includes(file, source.parent) if path is None]


def _includes(file: Path, directory: Path) -> list[tuple[str, Path | None]]:
    """List what a file includes: the name, and the file, None if it is not found."""
    found: list[tuple[str, Path | None]] = []
    for name in _INCLUDE.findall(code_of(file)):
        places = (file.parent / name, directory / name)
        path = next((place.resolve() for place in places if is_file(place)), None)
        found.append((name, path))
    return found


def code_of(path: Path) -> str:
    """Read C text without comments, its strings kept whole."""
    return without_comments(read_given_file(path, _SIZE_MAX)).decode(errors="replace")


def two_tables(where: str, source: str) -> KlpError:
    """Make the error of a source that brings tables beside a description that names objects."""
    return KlpError(
        f"{source} brings its own struct klp_patch",
        where=where,
        why="Two sets of tables in one module would patch twice.",
        hint=f"Take the objects out of {FILE_NAME}, or the tables out of {source}.",
    )


def no_tables(directory: Path) -> KlpError:
    """Make the error of a livepatch of which nothing says what it replaces."""
    return KlpError(
        f"has no {FILE_NAME}",
        where=str(directory),
        why="Its sources enable no struct klp_patch either, so nothing says what they replace.",
        hint=f"Write {directory / FILE_NAME}:\n"
        '  [[object]]\n  name = "vmlinux"\n'
        '  functions = [{ old = "OLD_FUNCTION", new = "NEW_FUNCTION" }]',
    )
