"""Get the kernel's own compile command from kbuild, and keep it.

kbuild compiles a module of one line; the ``.cmd`` file that it leaves behind
holds the command that a module of this kernel is compiled with, and objtool's
after it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.cache import aside, locked
from klpbuild.kernel.kbuild import Compiler, find_compiler, run_make
from klpbuild.kernel.tree import Kernel

_MODULE, _OBJECT = "klpbuild_probe", "probe"
_MAKEFILE = f"obj-m := {_MODULE}.o\n{_MODULE}-y := {_OBJECT}.o\n"
_SOURCE = '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n'

#: Version of the kept record.
_FORMAT = 2


@dataclass(frozen=True)
class CompileCommand:
    """How one kernel compiles a source file of a module.

    :ivar compiler: the compiler, with a launcher such as ccache before it.
    :ivar version: the first line of what it says for ``--version``.
    :ivar flags: all flags but those that name the source, the output, the
        dependency file and the module (``-DKBUILD_BASENAME`` and its kin).
    :ivar objtool: the objtool command that follows the compilation of each
        object, to which the object is appended; None where objtool is not used
        or runs when the module is linked.
    :ivar objtool_at_link: whether kbuild runs objtool when it links a module.
    :ivar directory: where the command runs; relative paths in it start there.
    :ivar warning: what to tell the user when the compiler is not the kernel's, else empty.
    """

    compiler: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    objtool: tuple[str, ...] | None
    objtool_at_link: bool
    directory: Path
    warning: str = ""

    def header(self, name: str) -> Path | None:
        """Find the header that ``#include <name>`` finds, such as ``linux/livepatch.h``."""
        for flag in self.flags:
            if flag.startswith("-I") and (path := self.directory / flag[2:] / name).is_file():
                return path
        return None


def compile_command(kernel: Kernel) -> CompileCommand:
    """Read how this kernel compiles a module's sources, from `Kernel.cache` or from kbuild.

    :raises KlpError: when kbuild cannot build a module for this kernel.
    """
    return _compile_command(kernel, _digest(kernel))


def _digest(kernel: Kernel) -> str:
    digest = hashlib.sha256()
    for path in (kernel.config, kernel.build / "Makefile"):
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise KlpError(
                f"cannot be read: {error.strerror}",
                where=str(path),
                hint="Give a kernel that is configured and prepared for external modules.",
            ) from error
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _compile_command(kernel: Kernel, digest: str) -> CompileCommand:
    compiler = find_compiler(kernel)
    key = {
        "format": _FORMAT,
        "build": str(kernel.build),
        "release": kernel.release,
        "digest": digest,
        "compiler": [compiler.command, compiler.version],
        "toolchain": asdict(replace(kernel.toolchain, launcher="")),
    }
    path = kernel.cache / "compile-command.json"
    with locked(path):
        kept = read_record(path, partial(from_json, _Kept))
        if kept is None or kept.key != key:
            kept = _Kept(key, _probe(kernel, compiler, path))
            write_file(path, to_json(kept))
    return kept.command


@dataclass(frozen=True)
class _Kept:
    """The command, and all that it depends on."""

    key: object
    command: CompileCommand


def _probe(kernel: Kernel, compiler: Compiler, path: Path) -> CompileCommand:
    with aside(path) as directory:
        (directory / "Makefile").write_text(_MAKEFILE)
        (directory / f"{_OBJECT}.c").write_text(_SOURCE)
        said = run_make(
            kernel, directory, "modules", variables={"KBUILD_MODPOST_WARN": "1", "V": "1"}
        )
        compile_line = _recorded(directory / f".{_OBJECT}.o.cmd")
        link_line = _recorded(directory / f".{_MODULE}.o.cmd")
    commands = split_commands(compile_line)
    words, flags = _compiler_and_flags(commands[0], directory.name)
    objtool = _objtool(commands[1:], f"{_OBJECT}.o")
    if objtool is None:  # before v5.18 kbuild runs it and does not record it
        for line in said.splitlines():
            if "objtool" in line:
                objtool = objtool or _objtool(split_commands(line), f"{_OBJECT}.o")
    return CompileCommand(
        words,
        compiler.version,
        flags,
        objtool,
        any(map(_is_objtool, split_commands(link_line))),
        kernel.build.resolve(),
        compiler.warning,
    )


def _recorded(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError as error:
        raise KlpError(f"kbuild did not write {path.name}", where=str(path.parent)) from error
    found = recorded_command(text)
    if found is None:
        raise KlpError(f"kbuild recorded no command in {path.name}", where=str(path.parent))
    return found[1]


def recorded_command(text: str) -> tuple[str, str] | None:
    """Read target and command of a ``.cmd`` file: ``cmd_`` before v6.3, then ``savedcmd_``."""
    match = re.search(r"^(?:saved)?cmd_(\S+) := (.*)$", text, re.MULTILINE)
    return (match[1], unescape_recorded(match[2])) if match else None


def unescape_recorded(text: str) -> str:
    """Undo make's quoting in a recorded command (scripts/Kbuild.include, make-cmd)."""
    return re.sub(r"\$\$|\$\(pound\)", lambda m: "$" if m[0] == "$$" else "#", text)


def split_commands(line: str) -> list[list[str]]:
    """Split a shell line into commands at ``;`` and each command into its words.

    :raises KlpError: when its quotation marks do not pair.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    lexer.commenters = ""
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if set(word) == {";"}:
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError as error:
        raise KlpError(f"kbuild's command cannot be read: {error}", why=line) from error
    return [words for words in commands if words] or [[]]


def _compiler_and_flags(words: list[str], probe: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    flags: list[str] = []
    rest = iter(words[first:])
    for word in rest:
        if word == "-o":
            next(rest, None)
        elif word == "-c" or _is_file_flag(word, probe):
            continue
        else:
            flags.append(word)
    return tuple(words[:first]), tuple(flags)


def _is_file_flag(word: str, probe: str) -> bool:
    """Tell whether a word depends on the file and not only on the kernel."""
    of_module = ("-DKBUILD_BASENAME=", "-DKBUILD_MODNAME=", "-DKBUILD_MODFILE=")
    dependencies = ("-Wp,-MMD,", "-Wp,-MD,", "-MMD", "-MD")
    return (
        word.startswith((*of_module, "-D__KBUILD_MODNAME=", *dependencies))
        or probe in word
        or word == f"{_OBJECT}.c"
    )


def _is_objtool(words: list[str]) -> bool:
    return bool(words) and Path(words[0]).name == "objtool"


def _objtool(commands: list[list[str]], target: str) -> tuple[str, ...] | None:
    for words in commands:
        if _is_objtool(words) and Path(words[-1]).name == target:
            return tuple(words[:-1])
    return None
