"""Compile a source of a livepatch with the kernel's own flags."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from klpbuild.arch import Architecture
from klpbuild.compiler.flags import CompileCommand, compile_command
from klpbuild.compiler.kept import Made
from klpbuild.compiler.launcher import launched, launcher_environment, unlaunched
from klpbuild.compiler.log import BuildLog
from klpbuild.compiler.quotes import quotable
from klpbuild.errors import KlpError, reading, warn
from klpbuild.files.given import check_file_names
from klpbuild.files.records import read_record
from klpbuild.files.whole import write_file
from klpbuild.kernel.kbuild import build_environment, shortened
from klpbuild.kernel.tree import Kernel
from klpbuild.run import run

#: Our headers; ``klpbuild/livepatch.h`` in it is included before every source.
INCLUDE = Path(__file__).parent / "include"
HEADER = INCLUDE / "klpbuild" / "livepatch.h"

# Only the generated tables refer to a function that replaces another one.
_NO_PROTOTYPES = ("-Wno-missing-prototypes", "-Wno-missing-declarations")

#: Text in the log in place of a compiler's messages.
_KEPT = "(was compiled before: the object is a copy)"

#: gcc's words for a second KLP_RELOC_SYMBOL: gcc keeps the first one and goes on.
_OTHER_NAME = "declaration ignored due to conflict with previous rename"

#: An entry of compile_commands.json.
Entry = dict[str, str | list[str]]

_OWN_MACROS = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+KLP_(?:MODULE_RELOC|RELOC_SYMBOL)\b", re.M)


@dataclass(frozen=True)
class Compilation:
    """A compiled source.

    :ivar output: the object.
    :ivar dependencies: the source and every file that it includes, in the
        compiler's order, absolute.
    :ivar said: what the compiler and objtool said; empty if nothing.
    """

    output: Path
    dependencies: tuple[Path, ...]
    said: str


def compile_source(
    kernel: Kernel,
    source: Path,
    output: Path,
    *,
    module_name: str,
    extra_flags: Sequence[str] = (),
    log: BuildLog | None = None,
    depfile: Path | None = None,
    confined: bool = True,
    generated: bool = False,
    text: str = "",
) -> Compilation:
    """Compile one C file as a part of a module, and run objtool if kbuild does.

    The object is written aside and renamed when everything has succeeded.  Its
    bytes do not depend on the directories of the source and the output.

    :param module_name: KBUILD_MODNAME: no ``-``.
    :param extra_flags: come after the kernel's.
    :param confined: whether what the compiler says is hidden when it may quote a file that is
        neither the livepatch's nor the kernel's.
    :param depfile: where make's rule for the object goes; None: nowhere.
    :param generated: whether klpbuild wrote the source: its object is kept, see
        `klpbuild.compiler.kept`.
    :param text: a part of a generated source that may differ, see `klpbuild.compiler.kept.Made`.
    :raises KlpError: with the compiler's own lines when it refuses the source, or when a file
        that it includes has a name that cannot be shown.
    """
    command = compile_command(kernel)
    if command.warning:
        warn(command.warning)
    named, source, output = source, source.absolute(), output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.stem}.{os.getpid()}-{threading.get_ident()}.o")
    rule = aside.with_suffix(".d")
    flags = [*compile_arguments(kernel, source, module_name), *extra_flags]
    made = _made(command, flags, source, text) if generated and depfile is None else None
    if made is not None and (kept := made.find(kernel)) is not None:
        write_file(output, kept[0])
        if log is not None:
            line = [*flags, "-c", "-o", str(output), str(source)]
            log.command(line, command.directory, output=output, source=source, said=_KEPT)
        return Compilation(output, (source, *kept[1]), "")
    arguments = [*flags, "-MD", f"-MF{rule}", f"-MT{output}", "-c", "-o"]
    launcher = kernel.toolchain.launcher
    try:
        line = launched(launcher, [*arguments, str(aside), str(source)])
        done = _run(line, command.directory, launcher_environment(launcher))
        read = None
        if rule.exists():
            text = rule.read_text(errors="surrogateescape")
            read = read_dependencies(text, command.directory)
        said = done.stdout
        if confined:
            said = quotable(said, read, source, kernel, command)
        if done.returncode:
            why = "\n".join(map(shortened, said.strip().splitlines()))
            raise KlpError("does not compile", where=str(named), why=why)
        if _OTHER_NAME in said:
            raise KlpError(
                "annotations of one symbol contradict each other",
                where=str(named),
                why=said.strip(),
                hint="Declare two symbols by two names, each with its KLP_RELOC_SYMBOL.",
            )
        if log is not None:
            whole = launched(launcher, [*arguments, str(output), str(source)])
            log.command(whole, command.directory, output=output, source=source, said=said)
        if command.objtool is not None:
            objtool_said = run_objtool(command, aside).replace(str(aside), str(output))
            said += objtool_said
            if log is not None:
                whole = [*command.objtool, str(output)]
                log.command(whole, command.directory, output=output, said=objtool_said)
        dependencies = read or ()
        check_file_names(dependencies)
        if made is not None and not said.strip():
            tools = [command.directory / word for word in (command.objtool or ())[:1]]
            files = [path for path in dependencies if path != source]
            made.keep(kernel, aside.read_bytes(), [*files, *tools])
        aside.replace(output)
        if depfile is not None:
            rule.replace(depfile)
    finally:
        aside.unlink(missing_ok=True)
        rule.unlink(missing_ok=True)
    return Compilation(output, dependencies, said.strip())


def preprocess(
    kernel: Kernel, source: Path, module_name: str, extra_flags: Sequence[str], directory: Path
) -> str:
    """Preprocess one C file as a part of a module, without marks of lines.

    :param directory: the livepatch's, of whose files the text is made.
    :raises KlpError: with the preprocessor's own lines when it refuses it.
    """
    command = compile_command(kernel)
    source = source.absolute()
    flags = (*compile_arguments(kernel, source, module_name), *extra_flags)
    done = run([*flags, "-E", "-P", str(source)], build_environment(), command.directory)
    if done.returncode:
        said = quotable(done.stderr, None, source, kernel, command, (directory,))
        why = "\n".join(map(shortened, said.strip().splitlines()))
        raise KlpError("the preprocessor refuses it", where=str(source), why=why)
    return done.stdout


def _made(command: CompileCommand, flags: Sequence[str], source: Path, text: str) -> Made:
    """Collect what an object is made from: no directories of its source or of klpbuild."""
    words = (command.version, *flags, *(command.objtool or ()), source.name)
    plain = (word.replace(str(source.parent), ".") for word in words)
    # clang writes a digest of the whole source into the debug data.
    varying = "" if "clang" in command.version else text
    return Made(source.read_bytes(), tuple(plain), varying.encode())


def compile_arguments(kernel: Kernel, source: Path, module_name: str) -> list[str]:
    """Build the command line that compiles one C file of a module, without its output.

    :param source: absolute.
    :param module_name: KBUILD_MODNAME: no ``-``.
    :raises KlpError: when the source cannot be read, or kbuild cannot build a module.
    """
    command = compile_command(kernel)
    return [
        *command.compiler,
        *command.flags,
        *missing_ftrace_flags(command.flags, kernel.arch),
        *module_flags(source, module_name),
        *header_flags(source),
        f"-I{source.parent}",
        *source_tree_flags(kernel),
        *path_flags(command, source),
        *_NO_PROTOTYPES,
    ]


def compile_commands(
    kernel: Kernel,
    sources: Sequence[Path],
    module_name: str,
    flags: Callable[[Path], Sequence[str]] = lambda source: (),
) -> list[Entry]:
    """List how C files of a module are compiled, for compile_commands.json.

    Its format is that of https://clang.llvm.org/docs/JSONCompilationDatabase.html.

    :param flags: those of a source, behind the kernel's.
    """
    directory = str(compile_command(kernel).directory)
    return [
        {
            "directory": directory,
            "file": str(source.absolute()),
            "arguments": [
                *unlaunched(compile_arguments(kernel, source.absolute(), module_name)),
                *flags(source),
                "-c",
                str(source.absolute()),
            ],
        }
        for source in sources
    ]


def missing_ftrace_flags(flags: Sequence[str], arch: Architecture) -> tuple[str, ...]:
    """List the flags that make an entry call in every function and are missing.

    A kernel may reserve more instructions at an entry than we would
    (``-fpatchable-function-entry=4,2`` on arm64): that is its choice.
    """
    patchable = "-fpatchable-function-entry="
    if "__patchable_function_entries" in arch.entry_sections and any(
        flag.startswith(patchable) for flag in flags
    ):
        return ()
    return tuple(flag for flag in arch.ftrace_flags if flag not in flags)


def module_flags(source: Path, module_name: str) -> tuple[str, ...]:
    """Make the names that kbuild gives to each object (scripts/Makefile.lib, basename_flags)."""
    basename = re.sub(r'(["\\])', r"\\\1", source.stem.replace("-", "_"))
    return (
        f'-DKBUILD_BASENAME="{basename}"',
        f'-DKBUILD_MODNAME="{module_name}"',
        f"-D__KBUILD_MODNAME=kmod_{module_name}",
    )


def header_flags(source: Path) -> tuple[str, ...]:
    """Make the flags that include our header, unless the source defines the annotations itself.

    :raises KlpError: when the source cannot be read.
    """
    with reading(source):
        text = source.read_bytes()
    if _OWN_MACROS.search(text):
        return ()
    return ("-include", str(HEADER))


def source_tree_flags(kernel: Kernel) -> tuple[str, ...]:
    """Make the flags by which a livepatch finds headers beside the kernel's sources.

    ``#include "fs/ext4/ext4.h"`` is then the one of the kernel that is built for; the
    kernel's own include directories come first.
    """
    if kernel.source is None:
        return ()
    return ("-idirafter", str(kernel.source), f"-ffile-prefix-map={kernel.source}/=")


def path_flags(command: CompileCommand, source: Path) -> tuple[str, ...]:
    """Make the flags that keep the machine's directories out of ``__FILE__`` and debug data."""
    return (
        f"-ffile-prefix-map={command.directory}=.",
        f"-ffile-prefix-map={INCLUDE}/=",
        f"-ffile-prefix-map={source.parent}/=",
    )


def run_objtool(command: CompileCommand, target: Path) -> str:
    """Run objtool over an object, in place, with the kernel's own arguments.

    :returns: what it printed.
    :raises KlpError: when it fails.
    """
    assert command.objtool is not None
    done = _run([*command.objtool, str(target)], command.directory)
    if done.returncode:
        raise KlpError(
            f"objtool fails with status {done.returncode}",
            where=str(target),
            why=done.stdout.strip(),
        )
    return done.stdout


def _run(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        settings = {**(environment or {}), **build_environment()}
        return run(arguments, settings, directory, together=True)
    except OSError as error:
        raise KlpError(f"{arguments[0]} does not run: {error.strerror}") from error


def read_dependencies(rule: str, directory: Path) -> tuple[Path, ...]:
    """Parse the files that a compiler's ``-MD`` rule names, absolute.

    :param directory: where the compiler ran.
    """
    _, _, text = rule.replace("\\\n", " ").partition(":")
    names = re.findall(r"(?:\\.|\$\$|[^\s\\])+", text)
    plain = (re.sub(r"\\(.)", r"\1", name).replace("$$", "$") for name in names)
    return tuple(dict.fromkeys(Path(os.path.normpath(directory / name)) for name in plain))


def read_files(rule: Path) -> list[Path]:
    """Read the files that a rule names, if they are there and below the working directory.

    :param rule: beside the object; it may not exist yet.
    """
    here = Path.cwd()
    named = read_record(rule, lambda data: read_dependencies(data.decode(), here)) or ()
    return [
        path.relative_to(here) for path in named if path.is_relative_to(here) and _is_there(path)
    ]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file has
        return False
