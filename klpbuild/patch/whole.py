"""Prove that no code reads a structure as a whole, and so none that it loses a member.

Who compares, hashes or hands out the bytes of an object asks for its size.  The original is
compiled with two values of ``sizeof`` for the structure alone: whatever differs then asks.
Allocations that clear what they give, and ``memset()`` to zero, are told the true size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.csource import closing_braces, code_alone
from klpbuild.patch.holes import CLEARS, MADE_ZERO, OBJECTS_MAX, calls, differing, grown
from klpbuild.patch.layout import changed_layouts, layouts
from klpbuild.patch.patched import PatchedFile, SourceLine
from klpbuild.patch.recompile import Recompiler
from klpbuild.patch.regions import blanked
from klpbuild.patch.shadow import make_shadow

#: How much too large the size is; no macro, for these are in the texts of some warnings.
_MORE = b"\nenum { klpbuild_excess = %d };\n"
#: A ``sizeof`` that is too large for the structure and for arrays of it.
_ASKED = (
    b"\n#define sizeof(...) (sizeof(__VA_ARGS__) + klpbuild_excess *"
    b" (__builtin_types_compatible_p(__typeof__(__VA_ARGS__), TAG) ||"
    b" __builtin_types_compatible_p(__typeof__(__VA_ARGS__),"
    b" TAG[sizeof(__VA_ARGS__) / sizeof(TAG)])))\n"
)
#: Calls that are told the true size: those that clear memory, and checks of the compiler's.
_TOLD = re.compile(
    rb"%b|\b(?:memset|memcpy|BUILD_BUG_ON(?:_MSG)?|static_assert|NL_ASSERT_\w*CTX_FITS)\b"
    % CLEARS.pattern
)
#: A packet's control block saved in a variable, or put back: it is private to the code that has
#: it (include/linux/skbuff.h, struct sk_buff, cb), and nothing else reads it.
_CONTROL_BLOCK = re.compile(
    rb"memcpy\s*\(\s*(?:&?(\w+)\s*,\s*\w+->cb|\w+->cb\s*,\s*&?(\w+))\s*,"
    rb"\s*sizeof\s*\(\s*\*?\s*(?:\1|\2)\s*\)\s*\)"
)
#: The operand of a ``sizeof`` without parentheses, and what may not follow it.
_BARE = re.compile(
    rb"\bsizeof\b[ \t]*(\*?[ \t]*[A-Za-z_]\w*(?:(?:->|\.)\w+)*)(?!\w|\s*(?:[\[(.]|->))"
)
_OTHER_BARE = re.compile(rb"\bsizeof\b(?!\s*\()")
#: Other types that may be made of the structure: arrays of arrays, another name.
_OTHER_TYPE = rb"\b%b\b[^;{}()]*\]\s*\[|\btypedef\s+%b\b"
_STRUCTURE = re.compile(rb"\b(?:struct|union)\b[^;{}()=]*\{")
_PART = rb"\b%b\s+\w+\s*[;,\[]|\b(?:__)?typeof"
#: Checks of the compiler's, which do not matter where only layouts are read.
_UNCHECKED = b"""
#undef BUILD_BUG_ON_MSG
#define BUILD_BUG_ON_MSG(...) ((void)0)
#undef static_assert
#define static_assert(...) _Static_assert(1, "")
"""
_OTHERWISE = "may have it in another type, or ask for its size in a way that is not read"


def why_read(
    compiler: Recompiler, name: str, file: PatchedFile, commands: Sequence[CompileCommand]
) -> str:
    """Explain what may read all of a structure, the place of a lost member too; else empty.

    :param name: such as ``struct x``; it is declared in the file.
    :param commands: how all objects are compiled that are made from the file.
    """
    larger = grown(file, name)
    if larger is None:
        return f"{file.path} does not declare it once"
    asked = _asked(file.original or b"", name, declares=True)
    if asked is None:
        return f"{file.path} {_OTHERWISE}"
    if len(commands) > OBJECTS_MAX:
        return f"{len(commands)} objects know it"
    texts = {file.path: asked}
    for command in commands:
        path = command.source.removeprefix(f"{compiler.tree.source}/")
        if path not in texts:
            asked = _asked((compiler.tree.source / path).read_bytes(), name, declares=False)
            if asked is None:
                return f"{path} {_OTHERWISE}"
            texts[path] = asked
    place = compiler.workdir / "whole" / name.split()[-1]
    text = larger.patched
    end = text.index(b";", text.index(b"}", text.index(b"klpbuild_grown"))) + 1
    larger = replace(larger, lines=_lines(text[:end] + _UNCHECKED + text[end:]))
    growing = _compiling(compiler, place / "grown", [larger])
    made: list[list[ElfFile]] = []
    try:
        for more in (0, 12289):  # in one place, whose name is in the texts of some warnings
            files = [
                PatchedFile(path, b"", _lines(text.replace(_MORE, _MORE % more)), file.where)
                for path, text in texts.items()
            ]
            asking = _compiling(compiler, place / "asked", files)
            paths = (asking.patched(command, False) for command in commands)
            # The next ones take their places, and may not be read while mapped.
            made.append([ElfFile(path.read_bytes(), str(path)) for path in paths if path])
        types = [
            [
                layouts(ElfFile.read(each.with_layouts(command, each is growing)))
                for command in commands
            ]
            for each in (compiler, growing)
        ]
    except KlpError:
        return "an object that knows it cannot be made with another size of it"
    for before, after in zip(*types, strict=True):
        if others := [n for n, _ in changed_layouts(before, after) if n != name]:
            return f"it is part of {others[0]}"
    for command, true, false in zip(commands, *made, strict=True):
        functions, rest = differing(true, false)
        if functions or rest:
            asker = rest or f"{min(functions)}()"
            return f"{asker} of {command.target} may read all of it"
    return ""


def _compiling(compiler: Recompiler, workdir: Path, files: Sequence[PatchedFile]) -> Recompiler:
    shadow = workdir / "shadow"
    make_shadow(shadow, compiler.tree.source, files, compiler.real, directives=False)
    return replace(compiler, files=tuple(files), shadow=shadow, workdir=workdir)


def _lines(text: bytes) -> tuple[SourceLine, ...]:
    return tuple(SourceLine(line, n) for n, line in enumerate(text.splitlines(True), 1))


def _asked(text: bytes, name: str, *, declares: bool) -> bytes | None:
    """Write a text with the other ``sizeof``; None where that is not known to be possible.

    :param declares: whether it declares the structure; else a header that it includes does.
    """
    text = _in_parentheses(text)
    plain = code_alone(text)
    tag = re.escape(name.encode()).replace(rb"\ ", rb"\s+")
    if _OTHER_BARE.search(blanked(text)) or re.search(_OTHER_TYPE % (tag, tag), plain):
        return None
    closing = closing_braces(plain)
    bodies = (plain[m.end() : closing.get(m.end() - 1)] for m in _STRUCTURE.finditer(plain))
    if any(re.search(_PART % tag, body) for body in bodies):
        return None  # the compiler does not tell of types inside of functions
    define, out, done = _ASKED.replace(b"TAG", name.encode()), [], 0
    if declares:
        (found,) = re.finditer(rb"\b%b\s*\{" % tag, plain)
        done = plain.find(b";", closing[found.end() - 1]) + 1
        out = [text[:done], _MORE, define]
    for start, end in _harmless(plain):
        if start >= done:
            out += [text[done:start], b"\n#undef sizeof\n", text[start:end], define]
            done = end
    return b"".join([*out, text[done:]])


def _in_parentheses(text: bytes) -> bytes:
    """Put the operands of each ``sizeof`` of code in parentheses."""
    plain, out, done = code_alone(text), [], 0
    for match in _BARE.finditer(plain):
        out += [text[done : match.start(1)], b"(", text[match.start(1) : match.end(1)], b")"]
        done = match.end(1)
    return b"".join([*out, text[done:]])


def _harmless(plain: bytes) -> Iterator[tuple[int, int]]:
    """Find the calls that allocate cleared memory, or clear it, and those that only check."""
    for start, end in calls(plain, _TOLD):
        only = {b"memset": MADE_ZERO, b"memcpy": _CONTROL_BLOCK}.get(plain[start : start + 6])
        match = only.match(plain, start) if only else None
        if only is None or (match and match.end() <= end):
            yield start, end
