"""Read changes of Makefiles: only those are accepted that add new C files to objects."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from klpbuild.errors import KlpError, Problems
from klpbuild.patch.patched import PatchedFile

_INCLUDED = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+\.c)"', re.MULTILINE)
#: A list of objects: ``obj-y +=``, ``ext4-objs :=``, ``ext4-$(CONFIG_X) +=``.
_LIST = re.compile(r"^[\w-]+-(?:y|m|objs|\$[({]\w+[)}])$")
#: An object of a directory that a variable names: ``$(KVM)/new.o``.
_ELSEWHERE = re.compile(r"^\$[({]\w+[)}](/[\w./-]+\.o)$")
_ASSIGNMENTS = ("=", ":=", "+=", "\\")
_FLAGS = re.compile(r"^(?:CFLAGS|CFLAGS_REMOVE|OBJECT_FILES_NON_STANDARD)_(\S+\.o)$")
#: References in a new file's flags: no function that runs a program or writes a file.
_REFERENCE = re.compile(r"\$[({](?:\w+|call (?:cc-option|cc-disable-warning) *,[\w\s,=-]*)[)}]")
#: Flags that name no program, and no file but headers, and that a shell takes as words.
_FLAG = re.compile(
    r"-[DUI][^$`;&|<>()]*|-include|-[OWgm][\w=+.-]*|-f(?!plugin)[\w=+-]+|-std=\w+|[\w./][\w./-]*|\\"
)


def added_sources(files: Iterable[PatchedFile]) -> tuple[PatchedFile, ...]:
    """List the C files that patches add and that no other file of theirs includes."""
    files = tuple(files)
    included = {
        posixpath.normpath(posixpath.join(posixpath.dirname(file.path), os.fsdecode(name)))
        for file in files
        for name in _INCLUDED.findall(file.patched)
    }
    return tuple(
        file
        for file in files
        if file.original is None and file.path.endswith(".c") and file.path not in included
    )


def check_makefiles(makefiles: Sequence[PatchedFile], added: Sequence[PatchedFile]) -> None:
    """Refuse changes of a Makefile other than those that name new files.

    :raises KlpError: with the first line of each Makefile that does something else.
    """
    problems = Problems()
    for makefile in makefiles:
        directory = posixpath.dirname(makefile.path)
        objects = {f"{posixpath.relpath(f.path, directory or '.')[:-2]}.o" for f in added}
        with problems.collect():
            _check_makefile(makefile, objects)
    problems.check()


def _check_makefile(makefile: PatchedFile, objects: set[str]) -> None:
    kept = {line.old for line in makefile.lines if line.old is not None}
    former = (makefile.original or b"").decode(errors="replace").splitlines()
    gone = Counter(
        word for i, line in enumerate(former, 1) if i not in kept for word in _words(line)
    )
    for line in makefile.lines:
        if line.old is not None:
            continue
        words = _words(line.text.decode(errors="replace"))
        flags = _FLAGS.match(words[0]) if words else None
        if flags and flags[1] in objects:
            wrong = _wrong_flag(words[1:])
            if wrong:
                raise _other_change(makefile, line.origin, f"{wrong!r} is no flag for one.")
            continue
        for word in words:
            if gone[word]:
                gone[word] -= 1
            elif word not in _ASSIGNMENTS and not _LIST.match(word) and not _is_new(word, objects):
                raise _other_change(makefile, line.origin, f"{word!r} is not one of them.")
    for word in gone.elements():
        if word not in _ASSIGNMENTS:
            raise _other_change(makefile, makefile.where, f"{word!r} goes.")


def _is_new(word: str, objects: set[str]) -> bool:
    """Tell whether a word names a new file's object; kbuild tells later where a variable leads."""
    elsewhere = _ELSEWHERE.match(word)
    if elsewhere:
        return any(f"/{name}".endswith(elsewhere[1]) for name in objects)
    return word in objects


def _wrong_flag(words: Sequence[str]) -> str:
    """Find the first word behind ``CFLAGS_x.o`` that may not be there; empty without one."""
    plain = _REFERENCE.sub("", " ".join(words[1:])).split()
    wrong = [word for word in plain if not _FLAG.fullmatch(word)]
    return next((word for word in (*words[:1], *wrong) if word not in _ASSIGNMENTS), "")


def _words(line: str) -> list[str]:
    """Split a line of a Makefile into words, an assignment's sign apart."""
    plain = re.sub(r"(^|\s)#.*", "", line)
    return re.sub(r"(\+=|:=|(?<![+:?!])=)", r" \1 ", plain, count=1).split()


def _other_change(makefile: PatchedFile, where: str, why: str) -> KlpError:
    return KlpError(
        f"{makefile.path} decides how the kernel is built",
        where=where or makefile.where,
        why=f"The running kernel was built already: only new objects of new files count. {why}",
        hint="Leave this change out of the patch.",
    )
