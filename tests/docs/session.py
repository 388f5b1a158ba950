"""A shell in a fresh checkout, in which a document's commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.docs.document import Block, Command, Kind, WrittenFile, difference, missing_lines

ROOT = Path(__file__).parents[2]
_END = "end-of-command"
#: The checkout has its .venv already.
_SETTING_UP = "scons: setting up .venv from requirements.lock"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def make_checkout(directory: Path) -> None:
    """What `git clone` gives, with the .venv that these tests run in."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, directory / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    (directory / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "klpbuild.lock":
            (directory / ".venv" / entry.name).symlink_to(entry)
    lock = (directory / "requirements.lock").read_bytes()
    (directory / ".venv" / "klpbuild.lock").write_bytes(lock)


class Session:
    """Commands run one after another in one shell, as a reader types them.

    :ivar problems: what was not as the document says.
    """

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        make_checkout(directory)
        more = {"PYTHONPATH": str(directory), "TERM": "dumb", **(environment or {})}
        self._begin(["bash", "--norc"], cwd=directory, env={**os.environ, **more})
        self._cache = os.environ.get("KLPBUILD_CACHE") or str(Path.home() / ".cache/klpbuild")

    def _begin(self, command: Sequence[str], **how: Any) -> None:
        pipe = subprocess.PIPE
        self.problems: list[str] = []
        self._shell = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, **how
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()

    def type(self, text: str) -> tuple[list[str], int]:
        """Run a command; what it prints, and its exit status."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {text}\n}} </dev/null; printf '\\n{_END} %d\\n' $?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(f"{_END} "):
                if lines and not lines[-1]:  # the line end that printf put before it
                    lines.pop()
                return lines, int(line.split()[1])
            lines.append(_COLOUR.sub("", line.rstrip("\n")))
        return lines, -1

    def run(self, blocks: Sequence[Block], *, kernel: bool, never: bool = False) -> None:
        """Run the blocks of a document.

        :param kernel: whether those that need a kernel run, too.
        :param never: whether those run, too, that need root or a network.
        """
        wanted = {Kind.QUICK: True, Kind.KERNEL: kernel, Kind.NEVER: never}
        for block in blocks:
            if not wanted[block.kind]:
                continue
            for item in block.content:
                if isinstance(item, WrittenFile):
                    write = f"mkdir -p $(dirname {item.path}) && cat >{item.path}"
                    assert self.type(f"{write} <<'{_END}'\n{item.text}{_END}") == ([], 0)
                elif problem := self._problem(item):
                    self.problems.append(f"line {item.line}: $ {item.text}\n{problem}")

    def _problem(self, command: Command) -> str:
        printed, status = self.type(command.text)
        if (status != 0) != command.fails:
            return f"exit status {status}\n" + "\n".join(printed)
        expected = [line for line in command.expected if line != _SETTING_UP]
        shown = [line.replace(self._cache, "~/.cache/klpbuild") for line in printed]
        compare = missing_lines if command.shortened else difference
        return compare(expected, shown)
