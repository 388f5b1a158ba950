"""Compile with a kernel's own flags, or stand in for the compiler in a kernel build.

klpbuild cc --kernel KERNEL [options] -c SOURCE.c -o OBJECT.o [GCC OPTIONS]
    compiles one source as kbuild compiles a module's, then with the GCC options.
    --module-name NAME  KBUILD_MODNAME; default: the object's name
    --launcher PROGRAM  starts the compiler: ccache, distcc, icecc or sccache
    --log FILE          add the command line to this build log

make CC="klpbuild cc" ...
    passes everything to the compiler KLPBUILD_CC (default: gcc).  A module's C file
    (-D__KERNEL__ -DMODULE) also gets the annotations of klpbuild/livepatch.h, ftrace
    entry calls where the kernel's flags leave them out, and a dependency file where
    none is asked for.  KLPBUILD_LOG names a build log for the command lines.

Example:

    klpbuild cc --kernel 6.1.0-47-cloud-amd64 -c fix.c -o fix.o
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.errors import KlpError

# Options of GCC whose argument is the next word, and what of it is a path.
_PATH_OPTIONS = ("-I", "-include", "-imacros", "-iquote", "-isystem", "-idirafter", "-iprefix")
_WORD_OPTIONS = ("-D", "-U", "-x", "-Xpreprocessor", "-Xassembler", "-Xlinker", "-T", "-u", "-L")
_RULE_OPTIONS = ("-M", "-MM", "-MD", "-MMD", "-MP", "-MG")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing but the rest: the compiler's options are not ours."""
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...")


def run(arguments: argparse.Namespace) -> int:
    """Compile, or pass the words on, and return the exit status."""
    return main(arguments.words)


def main(words: Sequence[str]) -> int:
    """Compile, or pass the words on, and return the compiler's exit status.

    :raises KlpError: when the words cannot be understood, or the source does not compile.
    """
    if list(words) in ([], ["--help"], ["-h"]):
        print(__doc__)
        return 0 if words else 2
    if any(word == "--kernel" or word.startswith("--kernel=") for word in words):
        return _compile(_Words.read(words))
    return _pass_on(list(words))


@dataclass
class _Words:
    """Parsed words of ``klpbuild cc --kernel``."""

    kernel: str = ""
    module_name: str = ""
    log: str = ""
    launcher: str = ""
    source: str = ""
    output: str = ""
    rule: str = ""
    compiles: bool = False
    flags: tuple[str, ...] = ()

    @classmethod
    def read(cls, words: Sequence[str]) -> _Words:
        read, flags, sources = cls(), [], []
        own = {"--kernel": "kernel", "--module-name": "module_name", "--log": "log"}
        own |= {"--launcher": "launcher"}
        own |= {"-o": "output", "-MF": "rule"}
        rest = iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if word in own:
                setattr(read, own[word], _argument(rest, word))
            elif equals and name.startswith("--") and name in own:
                setattr(read, own[name], value)
            elif word == "-c":
                read.compiles = True
            elif word in _RULE_OPTIONS:
                read.rule = read.rule or "-"
            elif word in _PATH_OPTIONS:
                flags += [word, str(Path(_argument(rest, word)).absolute())]
            elif word in _WORD_OPTIONS:
                flags += [word, _argument(rest, word)]
            elif word.startswith("-I"):
                flags.append(f"-I{Path(word[2:]).absolute()}")
            elif word.startswith("-o"):
                read.output = word[2:]
            elif word.startswith("-MF"):
                read.rule = word[3:]
            elif word.startswith("-"):
                flags.append(word)
            else:
                sources.append(word)
        if not read.compiles or len(sources) != 1 or not sources[0].endswith(".c"):
            raise KlpError(
                "klpbuild cc --kernel compiles one C file",
                hint="klpbuild cc --kernel KERNEL -c SOURCE.c -o OBJECT.o",
            )
        read.source, read.flags = sources[0], tuple(flags)
        read.output = read.output or f"{Path(read.source).stem}.o"
        if read.rule == "-":
            read.rule = str(Path(read.output).with_suffix(".d"))
        return read


def _argument(rest: Iterator[str], word: str) -> str:
    argument = next(rest, None)
    if argument is None:
        raise KlpError(f"option {word} has no argument")
    return argument


def _compile(words: _Words) -> int:
    from klpbuild.compiler.driver import compile_source
    from klpbuild.compiler.launcher import with_launcher
    from klpbuild.compiler.log import BuildLog
    from klpbuild.kernel.locate import locate
    from klpbuild.names import object_name

    fixtures, output = Path("kernel-fixtures"), Path("build", "fixtures", "kernel")
    here = fixtures.is_dir()
    kernel = locate(words.kernel, fixtures=fixtures if here else None, output=output)
    kernel = with_launcher(kernel, words.launcher)
    compilation = compile_source(
        kernel,
        Path(words.source),
        Path(words.output),
        module_name=object_name(words.module_name or words.output),
        extra_flags=words.flags,
        log=BuildLog(Path(words.log)) if words.log else None,
        depfile=Path(words.rule) if words.rule else None,
        confined=False,
    )
    if compilation.said:
        print(compilation.said, file=sys.stderr)
    return 0


def _pass_on(words: list[str]) -> int:
    compiler = os.environ.get("KLPBUILD_CC", "gcc").split()
    source = _source(words)
    of_module = {"-D__KERNEL__", "-DMODULE"} <= set(words)
    command = [*compiler, *words]
    if of_module and source.endswith(".c"):
        command += _added_flags(compiler, words, source)
    log = os.environ.get("KLPBUILD_LOG")
    try:
        if not log or not source:
            os.execvp(command[0], command)
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise KlpError(
            f"compiler {command[0]!r} does not run: {error.strerror}",
            hint="Name another one in the environment variable KLPBUILD_CC.",
        ) from error
    from klpbuild.compiler.log import BuildLog

    output = _after(words, "-o")
    BuildLog(Path(log)).command(
        command, Path.cwd(), output=Path(output) if output else None, source=Path(source)
    )
    return status if status >= 0 else 128 - status


def _after(words: Sequence[str], option: str) -> str:
    return next((b for a, b in pairwise(words) if a == option), "")


def _source(words: Sequence[str]) -> str:
    """Find the file that the words compile, empty for anything else, as for kbuild's probes."""
    if "-c" not in words:
        return ""
    included = {_after(words, option) for option in ("-include", "-imacros")}
    sources = [
        word
        for word in words
        if word.endswith((".c", ".S")) and word[0] != "-" and word not in included
    ]
    return sources[0] if len(sources) == 1 and Path(sources[0]).is_file() else ""


def _added_flags(compiler: Sequence[str], words: Sequence[str], source: str) -> list[str]:
    from klpbuild.compiler.driver import header_flags, missing_ftrace_flags

    added = list(header_flags(Path(source)))
    # Where the kernel was built for ftrace and this file has no entry call, kbuild
    # has taken it away from this file on purpose (CFLAGS_REMOVE_file.o).
    if not any(word.startswith("-DCC_USING_") for word in words):
        missing = missing_ftrace_flags(words, _target(compiler))
        if missing:
            print(f"klpbuild cc: {source}: adding {' '.join(missing)}", file=sys.stderr)
        added += missing
    if not any(word.startswith(("-M", "-Wp,-M")) for word in words):
        added.append("-MD")
    return added


def _target(compiler: Sequence[str]) -> Architecture:
    from klpbuild.run import run as run_to_end

    name = run_to_end([*compiler, "-dumpmachine"]).stdout.partition("-")[0].strip()
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    raise KlpError(
        f"compiler {' '.join(compiler)!r} is for {name or 'nothing known'}, which has no livepatch",
        hint="Known: " + ", ".join(a.name for a in ARCHITECTURES) + ".",
    )
