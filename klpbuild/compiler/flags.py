"""The kernel's own compile command, asked of kbuild once and kept.

kbuild compiles a module of one line; the ``.cmd`` file that it leaves behind
holds the command that a module of this kernel is compiled with, and objtool's
after it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from klpbuild.compiler.make import run_make
from klpbuild.elf.writer import write_file
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel

_MODULE, _OBJECT = "klpbuild_probe", "probe"
_MAKEFILE = f"obj-m := {_MODULE}.o\n{_MODULE}-y := {_OBJECT}.o\n"
_SOURCE = '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n'

#: Raised when what is kept changes its meaning.
_FORMAT = 1


@dataclass(frozen=True)
class CompileCommand:
    """How one kernel compiles a source file of a module.

    :ivar compiler: the compiler, with a launcher such as ccache before it.
    :ivar version: the first line that it answers to ``--version``.
    :ivar flags: all flags but those that name the source, the output, the
        dependency file and the module (``-DKBUILD_BASENAME`` and its kin).
    :ivar objtool: the objtool command that follows the compilation of each
        object, to which the object is appended; None where objtool is not used
        or runs when the module is linked.
    :ivar objtool_at_link: whether kbuild runs objtool when it links a module.
    :ivar directory: where the command runs; relative paths in it start there.
    :ivar make_variables: what kbuild must be given to use this compiler.
    :ivar warnings: what the user should know of it.
    """

    compiler: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    objtool: tuple[str, ...] | None
    objtool_at_link: bool
    directory: Path
    make_variables: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def header(self, name: str) -> Path | None:
        """The header that ``#include <name>`` finds, for instance ``linux/livepatch.h``."""
        for flag in self.flags:
            if flag.startswith("-I") and (path := self.directory / flag[2:] / name).is_file():
                return path
        return None


def compile_command(kernel: Kernel) -> CompileCommand:
    """How this kernel compiles a module's sources, from `Kernel.cache` or from kbuild.

    :raises KlpError: when kbuild cannot build a module for this kernel.
    """
    return _compile_command(kernel, _config_digest(kernel))


@lru_cache(maxsize=16)
def _compile_command(kernel: Kernel, digest: str) -> CompileCommand:
    kept = kernel.cache / "compile-command.json"
    key = {"format": _FORMAT, "build": str(kernel.build), "release": kernel.release, "is": digest}
    if (command := _read_kept(kept, key)) is not None:
        return command
    command = _ask(kernel)
    fields = asdict(command) | {"directory": str(command.directory)}
    write_file(kept, json.dumps({"key": key, "command": fields}, indent=1).encode())
    return command


def _config_digest(kernel: Kernel) -> str:
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


def _read_kept(kept: Path, key: dict[str, object]) -> CompileCommand | None:
    try:
        stored = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return None
    if stored.get("key") != key:
        return None
    fields = stored["command"]
    for name in ("compiler", "flags", "make_variables", "warnings"):
        fields[name] = tuple(fields[name])
    fields["objtool"] = None if fields["objtool"] is None else tuple(fields["objtool"])
    command = CompileCommand(**fields | {"directory": Path(fields["directory"])})
    return command if compiler_version(command.compiler) == command.version else None


def compiler_version(compiler: tuple[str, ...]) -> str | None:
    """The first line that a compiler answers to ``--version``, None if it does not run."""
    try:
        answer = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, check=True, errors="replace"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.partition("\n")[0].strip()


def _ask(kernel: Kernel) -> CompileCommand:
    """Ask kbuild, with the compiler that it names or else with the one the kernel was built by."""
    wanted = _config_value(kernel.config, "CONFIG_CC_VERSION_TEXT")
    builder = wanted.split(" ", 1)[0]
    try:
        command = _probe(kernel, ())
    except _NoCompiler as missing:
        substitute = builder if shutil.which(builder) else "gcc"
        if not shutil.which(substitute):
            raise KlpError(
                f"kbuild's compiler {missing.name} is not installed",
                where=str(kernel.build),
                hint=f"This kernel was built by {wanted or 'an unnamed compiler'}.",
            ) from missing
        command = _probe(kernel, (f"CC={substitute}",))
    if not _same_compiler(command.version, wanted) and shutil.which(builder):
        other = compiler_version((builder,))
        if other is not None and _same_compiler(other, wanted):
            command = _probe(kernel, (f"CC={builder}",))
    if wanted and not _same_compiler(command.version, wanted):
        warning = f"compiler {command.version!r} is not the kernel's, {wanted!r}"
        return replace(command, warnings=(warning,))
    return command


def _same_compiler(version: str, wanted: str) -> bool:
    """Compare without the program's own name: ``x86_64-linux-gnu-gcc-12`` is ``gcc-12``."""
    return re.sub(r"^\S+ (?=\()", "", version) == re.sub(r"^\S+ (?=\()", "", wanted)


def _config_value(config: Path, name: str) -> str:
    match = re.search(rf'^{name}="?(.*?)"?$', config.read_text(errors="replace"), re.MULTILINE)
    return match[1] if match else ""


class _NoCompiler(Exception):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def _probe(kernel: Kernel, variables: tuple[str, ...]) -> CompileCommand:
    kernel.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=kernel.cache) as name:
        directory = Path(name)
        (directory / "Makefile").write_text(_MAKEFILE)
        (directory / f"{_OBJECT}.c").write_text(_SOURCE)
        result = run_make(kernel, directory, "modules", "V=1", *variables)
        if result.returncode:
            missing = re.search(r"(\S*(?:gcc|clang)\S*): (?:command )?not found", result.output)
            if missing and not variables:
                raise _NoCompiler(missing[1])
            raise KlpError(
                "kbuild cannot build a module for this kernel",
                where=str(kernel.build),
                why=result.errors(),
                hint="Give a kernel that is configured and prepared for external modules.",
            )
        compile_line = _recorded(directory / f".{_OBJECT}.o.cmd")
        link_line = _recorded(directory / f".{_MODULE}.o.cmd")
    commands = split_commands(compile_line)
    compiler, flags = _compiler_and_flags(commands[0], name)
    objtool = _objtool(commands[1:], directory / f"{_OBJECT}.o")
    if objtool is None:  # before v5.18 kbuild runs it and does not record it
        shown = [split_commands(line) for line in result.output.splitlines() if "objtool" in line]
        for line in shown:
            objtool = objtool or _objtool(line, directory / f"{_OBJECT}.o")
    version = compiler_version(compiler)
    if version is None:
        raise KlpError(f"compiler {compiler[-1]} does not run", where=str(kernel.build))
    return CompileCommand(
        compiler,
        version,
        flags,
        objtool,
        any(_is_objtool(words) for words in split_commands(link_line)),
        kernel.build.resolve(),
        variables,
    )


def _recorded(path: Path) -> str:
    """The command in a ``.cmd`` file, ``cmd_`` before v6.3 and ``savedcmd_`` since."""
    try:
        text = path.read_text()
    except OSError as error:
        raise KlpError(f"kbuild did not write {path.name}", where=str(path.parent)) from error
    match = re.search(r"^(?:saved)?cmd_\S+ := (.*)$", text, re.MULTILINE)
    if match is None:
        raise KlpError(f"kbuild recorded no command in {path.name}", where=str(path.parent))
    return unescape_recorded(match[1])


def unescape_recorded(text: str) -> str:
    """The shell's text of a recorded command (scripts/Kbuild.include, make-cmd)."""
    return text.replace("$(pound)", "#").replace("$$", "$")


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
    """Whether a word tells of the file and not of the kernel."""
    of_module = ("-DKBUILD_BASENAME=", "-DKBUILD_MODNAME=", "-DKBUILD_MODFILE=")
    dependencies = ("-Wp,-MMD,", "-Wp,-MD,", "-MMD", "-MD")
    return (
        word.startswith((*of_module, "-D__KBUILD_MODNAME=", *dependencies))
        or probe in word
        or word == f"{_OBJECT}.c"
    )


def _is_objtool(words: list[str]) -> bool:
    return bool(words) and Path(words[0]).name == "objtool"


def _objtool(commands: list[list[str]], target: Path) -> tuple[str, ...] | None:
    for words in commands:
        if _is_objtool(words) and Path(words[-1]).name == target.name:
            return tuple(words[:-1])
    return None
