"""Link modules by the commands that kbuild was seen to run, without asking kbuild each time.

kbuild starts 250 processes to find out the four that link a module.  It records them in ``.cmd``
files (scripts/Kbuild.include, if_changed), so the first link of a kernel tells them.  They are
kept only if they make the very same module once more in another directory; and whenever one of
them fails, kbuild links the module and says why.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from klpbuild.compiler.driver import read_dependencies
from klpbuild.compiler.flags import compile_command, recorded_command
from klpbuild.compiler.kept import Made
from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import remove_tree, write_file
from klpbuild.kernel.kbuild import add_to_log, build_environment
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name
from klpbuild.run import run

#: Placeholders of the module's directory, its file name without ``.ko`` and its kernel name.
HERE, _MODULE, _NAME = "@directory@", "@module@", "@name@"
#: kbuild's own files that decide about the commands.
_RULES = ("Makefile", *(f"scripts/Makefile.{n}" for n in ("build", "lib", "modpost", "modfinal")))
#: Targets whose content is known without their commands.
_LISTS = ("@module@.mod", "modules.order")


@dataclass(frozen=True)
class _Command:
    """A command of kbuild.

    :ivar target: the file that it makes.
    :ivar line: for the shell.
    """

    target: str
    line: str


@dataclass(frozen=True)
class _Commands:
    """Recorded commands of a link.

    :ivar inside: whether they run in the module's directory and not in the kernel's.
    :ivar part: the line of ``MODULE.mod`` for a part, with ``0`` for its number.
    :ivar order: ``modules.order``.
    """

    commands: tuple[_Command, ...]
    inside: bool
    part: str
    order: str


@dataclass(frozen=True)
class Linker:
    """Links modules of a kernel.

    :ivar variables: kbuild's, with `HERE` for the directory of the module.
    """

    kernel: Kernel
    variables: tuple[tuple[str, str], ...]

    @property
    def _path(self) -> Path:
        command = compile_command(self.kernel)
        rules = [self.kernel.build / name for name in _RULES]
        states = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in rules if p.is_file()]
        tools = asdict(replace(self.kernel.toolchain, launcher=""))
        made = repr((str(self.kernel.build), states, command, tools, self.variables))
        digest = hashlib.sha256(made.encode()).hexdigest()[:16]
        return self.kernel.cache / f"link-commands-{digest}.json"

    def link(
        self, module: str, parts: Sequence[Path], directory: Path, log: Path | None
    ) -> str | None:
        """Link objects in an empty directory.

        :returns: what the commands printed; None when they are not known, or one of them fails.
        """
        kept = read_record(self._path, partial(from_json, _Commands))
        if kept is None:
            return None
        said = self._run(kept, module, parts, directory, log)
        return said if (directory / f"{module}.ko").is_file() else None

    def learn(self, module: str, parts: Sequence[Path], directory: Path) -> None:
        """Learn the commands of what kbuild has just linked, if they do the same once more."""
        commands = _recorded(module, len(parts), directory)
        if commands is None or self._is_elsewhere(module):
            return
        again = directory / "again"
        again.mkdir()
        self._run(commands, module, parts, again, None, keep=False)
        made = again / f"{module}.ko"
        if made.is_file() and made.read_bytes() == (directory / made.name).read_bytes():
            with suppress(KlpError):  # a read-only cache costs time, not correctness
                write_file(self._path, to_json(commands))
        remove_tree(again)

    def _is_elsewhere(self, module: str) -> bool:
        """Tell whether commands may have a module's name for another reason."""
        texts = repr((self.kernel.build, self.kernel.build.resolve(), self.kernel.toolchain))
        named = any(name in texts for name in (module, object_name(module)))
        return named or not module.startswith("livepatch-")

    def _run(
        self,
        kept: _Commands,
        module: str,
        parts: Sequence[Path],
        directory: Path,
        log: Path | None,
        keep: bool = True,
    ) -> str | None:
        here = directory.absolute()
        lines = []
        for number, path in enumerate(parts):
            shutil.copyfile(path, here / f"part{number}.o")
            (here / f".part{number}.o.cmd").write_text("")
            lines.append(kept.part.replace("part0", f"part{number}"))
        (here / f"{module}.mod").write_text(_filled("".join(lines), module, here))
        (here / "modules.order").write_text(_filled(kept.order, module, here))
        said = ""
        for command in kept.commands:
            done = self._run_one(kept, command, module, here, log, keep)
            if done is None:
                return None
            said += done
        return said

    def _run_one(
        self,
        kept: _Commands,
        command: _Command,
        module: str,
        here: Path,
        log: Path | None,
        keep: bool,
    ) -> str | None:
        target = here / _filled(command.target, module, here)
        source = target.with_suffix(".c")
        made = None
        if keep and command.target.endswith(".mod.o") and source.is_file():
            words = (command.line, module, compile_command(self.kernel).version)
            made = Made(source.read_bytes(), words)
            if found := made.find(self.kernel):
                target.write_bytes(found[0])
                return ""
        line = _filled(command.line, module, here)
        shell = ["/bin/sh", "-c", f"set -e; {line}"]
        place = here if kept.inside else self.kernel.build
        # kbuild exports it, and objtool of 6.12 asks for it.
        environment = {**build_environment(), "SRCARCH": self.kernel.arch.kernel_name}
        done = run(shell, environment, place, together=True)
        if log is not None:
            add_to_log(log, shell, environment, done.stdout)
        if done.returncode or not target.exists():
            return None
        rule = target.with_name(f".{target.name}.d")
        if made is not None and not done.stdout and rule.is_file():
            read = read_dependencies(rule.read_text(errors="surrogateescape"), place.resolve())
            made.keep(self.kernel, target.read_bytes(), [p for p in read if p != source])
        return done.stdout


def _filled(text: str, module: str, here: Path) -> str:
    for mark, value in ((HERE, str(here)), (_MODULE, module), (_NAME, object_name(module))):
        text = text.replace(mark, value)
    return text


def _marked(text: str, module: str, here: Path) -> str:
    for mark, value in ((HERE, str(here)), (_MODULE, module), (_NAME, object_name(module))):
        text = text.replace(value, mark)
    return text


def _recorded(module: str, count: int, directory: Path) -> _Commands | None:
    """Read kbuild's recorded commands for a module of so many parts; None if unknown."""
    here = directory.absolute()
    found: dict[str, str] = {}
    inside = False
    for path in sorted(directory.glob(".*.cmd")):
        command = recorded_command(path.read_text(errors="surrogateescape"))
        if command is None:
            if path.name.startswith(".part"):
                continue
            return None
        inside |= not command[0].startswith("/")
        target = _marked(Path(command[0]).name, module, here)
        found[target] = _marked(command[1], module, here)
    for name in _LISTS:
        found.pop(name, None)
    first, last = (f"{_MODULE}.o", "Module.symvers"), f"{_MODULE}.ko"
    if not {*first, last, f"{_MODULE}.mod.o"} <= found.keys():
        return None
    between = sorted(found.keys() - {*first, last})
    if not all(target.endswith(".o") for target in between):
        return None
    parts = (here / f"{module}.mod").read_text().splitlines(keepends=True)
    if [part.replace("part0", f"part{n}") for n, part in enumerate(parts[:1] * count)] != parts:
        return None
    return _Commands(
        tuple(_Command(target, found[target]) for target in (*first, *between, last)),
        inside,
        _marked(parts[0], module, here),
        _marked((here / "modules.order").read_text(), module, here),
    )
