"""Ask kbuild for an object's compile command."""

from __future__ import annotations

import posixpath
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from klpbuild.arch import ARCHITECTURES
from klpbuild.compiler.flags import recorded_command, split_commands, unescape_recorded
from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.cache import locked
from klpbuild.kernel.prepare import Log, PreparedTree, build_environment
from klpbuild.run import run

_MAKEFILE = "scripts/Makefile.build"
# scripts/Kbuild.include, cmd_and_fixdep
_FIXDEP = re.compile(r"scripts/basic/fixdep \S+ (\S+) ('.*') > \S+\.cmd")

#: KASAN puts strings beside each other in ``.rodata``: their labels tell where each begins.
_SANITIZED, KEEP_LABELS = "-fsanitize=kernel-address", "-Wa,--keep-locals"

#: The argument for an architecture's own headers (Makefile, LINUXINCLUDE).
_HEADERS = re.compile(r"^-I(?:.*/)?arch/(\w+)/include$")


@dataclass(frozen=True)
class CompileCommand:
    """Compile command of one object, with ``build`` of the prepared tree as working directory.

    :ivar target: the object, relative to the working directory.
    :ivar source: the C file, as the command names it.
    :ivar arguments: the compiler and its arguments, without output and dependency files.
    :ivar objtool: objtool and its arguments, without the object; empty when the
        kernel runs it later, on the linked object.
    """

    target: str
    source: str
    arguments: tuple[str, ...]
    objtool: tuple[str, ...]

    @property
    def module(self) -> bool:
        """Whether the object is made for a module."""
        return "-DMODULE" in self.arguments

    def detours(self, source: Path) -> set[str]:
        """List the directories of a source tree that the command's paths pass through and leave.

        ``arch/x86/kvm`` of ``arch/x86/kvm/../../../virt/kvm/kvm_main.c``.
        """
        found = set()
        for word in (self.source, *self.arguments):
            _, inside, path = word.partition(f"{source}/")
            parts = path.split("/") if inside else []
            places = (i for i, part in enumerate(parts) if part == "..")
            found |= {posixpath.normpath("/".join(parts[:place])) for place in places}
        return found

    def compile(self, output: Path, *flags: str, source: Path, shadow: Path | None) -> list[str]:
        """Build the command line of the compiler.

        :param output: the object to write.
        :param flags: what to add.
        :param source: the source tree that the command was made for.
        :param shadow: the tree to take in its place, whose names end up in the
            object as if they were the source tree's.
        """
        arguments = [*self.arguments, *flags]
        if "-fdata-sections" in flags:
            arguments += self._section_flags()
        place = self.source
        if shadow is not None:
            arguments = [_moved(argument, str(source), str(shadow)) for argument in arguments]
            place = _moved(place, str(source), str(shadow))
            if not any("prefix-map=" in argument for argument in arguments):
                arguments.append(f"-fmacro-prefix-map={shadow}/={source}/")
        return [*arguments, "-c", "-o", str(output), place]

    def _section_flags(self) -> tuple[str, ...]:
        """List what gcc wants; clang, which kbuild gives a target, has no section anchors."""
        if any(word.startswith("--target=") for word in self.arguments):
            return ()
        names = {match[1] for match in map(_HEADERS.search, self.arguments) if match}
        flags = next((a.section_flags for a in ARCHITECTURES if a.kernel_name in names), ())
        return (*flags, KEEP_LABELS) if _SANITIZED in self.arguments else flags


def _moved(argument: str, source: str, shadow: str) -> str:
    """Replace the source tree's path in an argument by the shadow's."""
    start = r"(?:(?<![\w.])|(?<=^-I))"
    return re.sub(rf"{start}{re.escape(source)}(?=/|$)", lambda _: shadow, argument)


def compile_commands(
    tree: PreparedTree, cache: Path, targets: Iterable[str], log: Log
) -> dict[str, CompileCommand]:
    """Ask kbuild how it makes objects.

    :param cache: a directory for the answers.
    :param targets: objects such as ``fs/open.o``.
    :returns: by target; a target that kbuild knows no rule for is missing.
    :raises KlpError: when kbuild itself fails.
    """
    wanted = list(dict.fromkeys(targets))
    found = {}
    for target in wanted:
        command = read_record(_record(cache, target), partial(from_json, CompileCommand))
        if command is not None and command.target == target:
            found[target] = command
    missing = [target for target in wanted if target not in found]
    if missing:
        for command in _asked(tree, missing, log):
            found[command.target] = command
            write_file(_record(cache, command.target), to_json(command))
    return found


def make_objects(tree: PreparedTree, cache: Path, targets: Iterable[str], log: Log) -> bool:
    """Let kbuild make objects, and so whatever they need that is generated.

    :returns: whether it could.
    """
    command = tree.make(*targets)
    with locked(cache / "kbuild"):
        return _run(command, tree, build_environment(), log).returncode == 0


def _record(cache: Path, target: str) -> Path:
    return cache / f"{target}.json"


def _asked(tree: PreparedTree, targets: list[str], log: Log) -> list[CompileCommand]:
    """Ask what kbuild would run for targets that it knows."""
    output = _dry_run(tree, targets, log)
    for target in targets:
        written = tree.build / _written(target)
        if written.is_file():  # made already, so that make has nothing to say
            output += written.read_text()
    commands = {c.target: c for line in output.splitlines() if (c := _parse(line)) is not None}
    found = [commands[target] for target in targets if target in commands]
    if len(found) < len(targets) > 1:  # make stops at a target that it does not know
        for target in targets:
            if target not in commands:
                found += _asked(tree, [target], log)
    return found


def _dry_run(tree: PreparedTree, targets: list[str], log: Log) -> str:
    """Run ``make -n`` and return what it prints.

    The Makefile that makes objects is asked itself: it takes a tenth of the time
    that the top Makefile takes to see that all is prepared.

    :raises KlpError: when kbuild itself fails.
    """
    output = _run(_direct(tree, targets), tree, tree.environment, log)
    if output.returncode == 0 and "fixdep" in output.stdout:
        return output.stdout
    output = _run(tree.make("-n", *targets), tree, build_environment(), log)
    if output.returncode and "No rule to make target" not in output.stderr:
        raise KlpError(
            "kbuild does not say how it makes " + " ".join(targets[:3]),
            where=str(tree.build),
            why="\n".join(output.stderr.splitlines()[-5:]),
        )
    return output.stdout


def _direct(tree: PreparedTree, targets: Iterable[str]) -> list[str]:
    command = ["make", "-rR", "-n", f"-I{tree.source}", "-f", f"{tree.source}/{_MAKEFILE}"]
    return [*command, "obj=.", "need-builtin=1", "need-modorder=1", *(f"./{t}" for t in targets)]


def ask_kbuild(
    tree: PreparedTree, environment: dict[str, str], targets: Iterable[str], log: Log
) -> list[CompileCommand]:
    """Ask kbuild how it makes objects from a source tree that it was not prepared for.

    :param environment: `PreparedTree.environment` with that tree's name.
    """
    output = _run(_direct(tree, targets), tree, environment, log).stdout
    return [c for line in output.splitlines() if (c := _parse(line)) is not None]


def _run(
    command: list[str], tree: PreparedTree, environment: dict[str, str], log: Log
) -> subprocess.CompletedProcess[str]:
    log(shlex.join(command))
    done = run(command, environment, tree.build)
    log(done.stderr)
    return done


def _written(target: str) -> str:
    directory, slash, name = target.rpartition("/")
    return f"{directory}{slash}.{name}.cmd"


def _parse(line: str) -> CompileCommand | None:
    """Parse a line of a ``.cmd`` file, or the shell's call of fixdep that would write it."""
    if match := _FIXDEP.search(line):
        target, text = match[1], unescape_recorded(shlex.split(match[2])[0])
    elif found := recorded_command(line):
        target, text = found
    else:
        return None
    try:
        compiles, *others = split_commands(text)
    except KlpError:
        return None
    if "-c" not in compiles or "-o" not in compiles or not compiles[-1].endswith(".c"):
        return None
    arguments = [word for word in compiles[:-1] if not word.startswith("-Wp,-M")]
    output = arguments.index("-o")
    del arguments[output : output + 2]
    arguments.remove("-c")
    objtool = next((part[:-1] for part in others if "objtool" in part[0].rpartition("/")[2]), [])
    return CompileCommand(target, compiles[-1], tuple(arguments), tuple(objtool))
