"""Read ``patched_funcs.csv``, in which SUSE's kernel-livepatch lists what a fix replaces.

A line is ``object old[,sympos] new [condition]``.  The condition is one of C's preprocessor, over
the kernel's configuration and the fix's header; names may be macros, ``KLP_SYSCALL_SYM(uname)``.
So the preprocessor reads them, for each kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.given import is_file, read_small_file
from klpbuild.module.livepatch import Function, Livepatch, PatchedObject, check_object
from klpbuild.module.parts import merged_objects
from klpbuild.names import object_name

#: What SUSE calls the list, and flags of C files.
LIST, FLAGS = "patched_funcs.csv", "Kbuild.inc"

_SIZE_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z_][\w.$]*|[A-Za-z_]\w*\([\w.$]*\)")
_OLD = re.compile(r"(.*?)(?:,(\d{1,9}))?")
_FLAGS_OF = re.compile(r"CFLAGS_(\S+)\.o\s*[:+]?=\s*(.*)")
#: Flags that name no program and no file.
_FLAG = re.compile(r"-[DU][^$`;&|<>()]*|-[OWgm][\w=+.-]*|-f(?!plugin)[\w=+-]+|-std=\w+")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_MARK = "klpbuild_replaces"


def read_list(path: Path) -> tuple[PatchedObject, ...]:
    """Read a list; its functions have conditions.

    :raises KlpError: with each line that is none of a list.
    """
    problems = Problems()
    found = []
    for number, line in enumerate(_lines(path), 1):
        where, words = f"{path}:{number}", line.split(None, 3)
        if not words:
            continue
        if len(words) < 3:
            what = "does not name an object, an old and a new function"
            problems.add(what, where=where, hint="object old[,sympos] new [condition]")
            continue
        name, old, new, *condition = words
        match = _OLD.fullmatch(old)
        assert match is not None
        for each in (match[1], new):
            if not _NAME.fullmatch(each):
                problems.add(f"{each!r} is not the name of a function", where=where)
        if condition and condition[0].endswith("\\"):
            problems.add("has a condition that does not end", where=where)
        name = object_name(Path(name).name)
        try:
            check_object(name)
        except KlpError as error:
            problems.add(error.problems[0].what, where=where, why=error.problems[0].why)
        function = Function(match[1], new, int(match[2] or 0), where, "".join(condition).strip())
        found.append(PatchedObject(name, (function,), where=where))
    problems.check()
    return merged_objects(found)


def with_list(directory: Path, livepatch: Livepatch) -> Livepatch:
    """Add to a fix what its list says.

    :raises KlpError: with what is wrong with the list, or when its header is missing.
    """
    if not _IDENTIFIER.fullmatch(livepatch.name):
        raise KlpError(
            f"{livepatch.name!r} is not a name in C", where=str(directory), hint="Rename it."
        )
    if not is_file(directory / header_of(livepatch)):
        raise KlpError(
            f"has no {header_of(livepatch)}",
            where=str(directory),
            why=f"With a {LIST} it declares the functions, livepatch_{livepatch.name}_init and"
            f"\nlivepatch_{livepatch.name}_cleanup.",
        )
    objects = merged_objects((*read_list(directory / LIST), *livepatch.objects))
    return replace(livepatch, objects=objects, has_list=True)


def _lines(path: Path) -> list[str]:
    try:
        return read_small_file(path, _SIZE_MAX).decode().splitlines()
    except UnicodeDecodeError as error:
        raise KlpError("is not UTF-8", where=str(path)) from error


def header_of(livepatch: Livepatch) -> str:
    """Name the header that declares a fix's functions."""
    return f"livepatch_{livepatch.name}.h"


def conditions_source(livepatch: Livepatch) -> str:
    """Write the C text that the preprocessor turns into the functions of a kernel.

    It includes what SUSE's main file includes before its tables.
    """
    text = _includes(livepatch)
    for number, (_, function) in enumerate(_functions(livepatch)):
        file, _, line = function.where.rpartition(":")
        # The preprocessor's errors then name the list and its line.
        text += f"#line {line} {_quoted(file)}\n#if {function.condition or '1'}\n"
        names = [name for name in (function.old, function.new) if "(" in name]
        text += f"{_MARK} {number} {' '.join(names)} {_MARK}\n#endif\n"
    return text


def held_lines(text: str) -> list[str]:
    """Return the lines of preprocessed text that say which functions are replaced."""
    return [line for line in text.splitlines() if line.startswith(_MARK)]


def with_conditions(livepatch: Livepatch, text: str) -> Livepatch:
    """Take the functions whose conditions hold, by what the preprocessor made of their source."""
    held = {int(m[1]): m[2].split() for m in re.finditer(rf"{_MARK} (\d+)([^\n]*?) {_MARK}", text)}
    found = []
    for number, (patched, function) in enumerate(_functions(livepatch)):
        if number not in held:
            continue
        names = iter(held[number])
        old, new = (next(names) if "(" in n else n for n in (function.old, function.new))
        plain = replace(function, old=old, new=new, condition="")
        found.append(replace(patched, functions=(plain,), callbacks={}, further=()))
    called = [replace(patched, functions=()) for patched in livepatch.objects if patched.called]
    return replace(livepatch, objects=merged_objects((*found, *called)))


def calls_source(livepatch: Livepatch) -> str:
    """Write the C file that makes a fix's two functions, maybe inline, ones for the tables."""
    name = livepatch.name
    return _includes(livepatch) + (
        f"int __init {entering(name)}(void)\n{{\n\treturn livepatch_{name}_init();\n}}\n"
        f"void {leaving(name)}(void)\n{{\n\tlivepatch_{name}_cleanup();\n}}\n"
    )


def entering(name: str) -> str:
    """Name the function that is called before a fix is enabled."""
    return f"klpbuild_enters_{name}"


def leaving(name: str) -> str:
    """Name the function that is called when a fix is gone."""
    return f"klpbuild_leaves_{name}"


def read_flags(path: Path, source: Path) -> tuple[str, ...]:
    """Read the flags that a ``Kbuild.inc`` has for a C file.

    :raises KlpError: for a line that is something else, and for flags that name a program.
    """
    problems = Problems()
    found: dict[str, None] = {}
    for number, line in enumerate(_lines(path), 1):
        where, text = f"{path}:{number}", line.partition("#")[0].strip()
        match = _FLAGS_OF.fullmatch(text)
        if text and match is None:
            problems.add("is not understood", where=where, hint="CFLAGS_file.o += -flag")
        if match is None or Path(match[1]).name != source.stem:
            continue
        for flag in match[2].split():
            if not _FLAG.fullmatch(flag):
                problems.add(f"has the flag {flag}, which is not taken", where=where)
            found[flag] = None
    problems.check()
    return tuple(found)


def _includes(livepatch: Livepatch) -> str:
    names = ("<linux/livepatch.h>", "<linux/module.h>", "<linux/types.h>")
    return "".join(f"#include {n}\n" for n in (*names, f'"{header_of(livepatch)}"'))


def _functions(livepatch: Livepatch) -> Iterator[tuple[PatchedObject, Function]]:
    for patched in livepatch.objects:
        for function in patched.functions:
            yield patched, function


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
