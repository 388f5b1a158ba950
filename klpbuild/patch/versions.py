"""Detect changes of the interface of exported symbols.

Its version (CRC) is computed from the types that its declaration reaches
(scripts/genksyms).  Modules that were built against the old one know those types;
when they change, replacing the code of one function is not enough.  Another version
alone proves nothing: a type that only one of the texts defines is printed otherwise.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.prepare import build_environment
from klpbuild.patch.layout import KEPT
from klpbuild.patch.pair import ObjectPair
from klpbuild.patch.recompile import Recompiler

# Prefixes of the sections that EXPORT_SYMBOL makes before and since v6.4.
_EXPORTS = ("___ksymtab", "__ksymtab", ".export_symbol")
# genksyms writes assembler before v5.19, comments for modpost since.
_VERSION = re.compile(r"^(?:#SYMVER (\S+) |__crc_(\S+) = )(0x[0-9a-f]+)", re.MULTILINE)
#: Words of declarations that change nothing of what is passed or laid out.
_QUALIFIERS = frozenset({"const", "volatile", "restrict", "__restrict", "extern"})
#: What the compiler is given in addition when kbuild asks for versions (scripts/Makefile.build).
_FLAGS = ("-D__GENKSYMS__", "-g0")
_KINDS = {"s": "struct", "u": "union", "e": "enum", "t": "typedef", "E": "enumerator"}


@dataclass(frozen=True)
class Interfaces:
    """Versions and types that genksyms prints for the symbols that an object exports.

    :ivar versions: by symbol.
    :ivar types: the words of each declaration, by symbol or by type as ``s#page``.
    """

    versions: dict[str, str]
    types: dict[str, tuple[str, ...]]


def check_versions(
    compiler: Recompiler, pair: ObjectPair, accepted: Sequence[str] = ()
) -> frozenset[str]:
    """Refuse a patch that changes the interface of a symbol which the object exports.

    :param accepted: structures, such as ``struct x``, that may be laid out otherwise.
    :returns: functions of which nothing but their own declaration changes.
    :raises KlpError: with the symbols and what differs; or when genksyms fails.
    """
    genksyms = compiler.tree.build / "scripts" / "genksyms" / "genksyms"
    original = ElfFile.read(pair.original)
    if not any(s.name.startswith(_EXPORTS) for s in original.sections) or not genksyms.exists():
        return frozenset()
    asked = _asked(compiler, pair, genksyms)
    if asked[0].partition(b"\0")[0] == asked[1].partition(b"\0")[0]:
        return frozenset()  # the same versions
    before, after = map(_interfaces, asked)
    functions = {s.name for s in original.symbol_list if s.is_function and s.is_defined}
    renewed: set[str] = set()
    problems = Problems()
    for kinds, names in sorted(changed_interfaces(before, after, accepted).items()):
        if kinds == (_called(names[0]),) and names[0] in functions:
            renewed.update(names)
            continue
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        problems.add(
            f"the interface of exported symbols changes: {', '.join(names[:5])}{more}",
            where=pair.source,
            why=f"{', '.join(kinds[:5])} differs, and modules in the running kernel know it as "
            "it was.",
            hint="Keep it as it is, and put new data into shadow variables.",
        )
    problems.check()
    return frozenset(renewed)


def changed_interfaces(
    before: Interfaces, after: Interfaces, accepted: Sequence[str]
) -> dict[tuple[str, ...], list[str]]:
    """List the symbols whose interface changes, by what differs in it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for symbol, version in sorted(before.versions.items()):
        if after.versions.get(symbol, version) == version:
            continue
        differing = tuple(
            name
            for name in sorted(_differing(symbol, before.types, after.types))
            if name not in accepted
        )
        if differing:
            found.setdefault(differing, []).append(symbol)
    return found


def _differing(
    symbol: str, before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]
) -> set[str]:
    """Find the declarations that a symbol reaches in both texts and that differ.

    A type that one of them does not define is the other's: what one text defines twice in
    different ways does not compile, and changed definitions are compared by the compiler's
    layouts.
    """
    if symbol not in before or symbol not in after:
        return {symbol}
    found = set()
    seen, waiting = {symbol}, [symbol]
    while waiting:
        name = waiting.pop()
        words, others = before.get(name, ()), after.get(name, ())
        if "UNKNOWN" in words or "UNKNOWN" in others or not words or not others:
            continue
        if _plain(words) != _plain(others) and not _grows(name, words, others):
            found.add(_called(name))
        for word in {*words, *others} - seen:
            if "#" in word:
                seen.add(word)
                waiting.append(word)
    return found


def _plain(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word not in _QUALIFIERS]


def _grows(name: str, words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Tell whether an enumeration gets more enumerators behind the others."""
    return name.startswith("e#") and others[: len(words) - 1] == words[:-1]


def _called(name: str) -> str:
    kind, mark, rest = name.partition("#")
    return f"{_KINDS.get(kind, kind)} {rest.strip(chr(39))}" if mark else f"its declaration {name}"


def _asked(compiler: Recompiler, pair: ObjectPair, genksyms: Path) -> tuple[bytes, bytes]:
    """Ask genksyms what the object exports, as it was and as the patches make it."""

    def answer(patched: bool) -> bytes:
        def ask(dependencies: Path) -> bytes:
            return _run(compiler, pair, genksyms, dependencies, patched)

        return compiler.answer(pair.command, "versions", _FLAGS, patched, ask)

    with ThreadPoolExecutor(2) as pool:  # side by side
        before, after = pool.map(answer, (False, True))
    return before, after


def _run(
    compiler: Recompiler, pair: ObjectPair, genksyms: Path, dependencies: Path, patched: bool
) -> bytes:
    """Run genksyms; what it prints, and behind a zero byte the types that it read."""
    tree = compiler.tree
    line = pair.command.compile(
        Path("-"), *_FLAGS, f"-Wp,-MD,{dependencies}",
        source=tree.source, shadow=compiler.shadow if patched else None,
    )  # fmt: skip
    line[line.index("-c")] = "-E"
    compiler.log(" ".join(line) + f" | {genksyms} -r /dev/null")
    with tempfile.TemporaryDirectory(prefix="klpbuild-") as directory:
        dump = Path(directory, "types")
        preprocessor = subprocess.Popen(
            line,
            cwd=tree.build,
            env=build_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        reader = subprocess.Popen(
            [genksyms, "-r", "/dev/null", "-T", dump],
            stdin=preprocessor.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert preprocessor.stdout is not None
        preprocessor.stdout.close()
        output = reader.communicate()[0]
        if preprocessor.wait() or reader.returncode:
            raise KlpError("genksyms cannot read the source", where=pair.source)
        return output + b"\0" + (dump.read_bytes() if dump.is_file() else b"")


def _interfaces(answer: bytes) -> Interfaces:
    output, _, types = answer.decode(errors="replace").partition("\0")
    versions = {new or old: crc for new, old, crc in _VERSION.findall(output)}
    return Interfaces(versions, read_types(types.replace(KEPT, "")))


def read_types(text: str) -> dict[str, tuple[str, ...]]:
    """Parse the declarations that ``genksyms -T`` writes, one a line (kbuild's ``.symtypes``)."""
    lines = (line.partition(" ") for line in text.splitlines())
    return {name: tuple(rest.split()) for name, _, rest in lines}
