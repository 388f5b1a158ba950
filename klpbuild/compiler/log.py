"""The build log: every command line, for people and for tools."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path

from klpbuild.errors import printable

_lock = threading.Lock()


class BuildLog:
    """Two files that only grow: a text for people and one JSON object a line for tools.

    :ivar path: the text.
    :ivar lines: the JSON lines, beside it: ``directory``, ``arguments``, ``output``,
        and ``file`` for a compilation, as in compile_commands.json.
    """

    def __init__(self, path: Path, *, echo: bool = False) -> None:
        """Name the two files; they are opened for each line.

        :param echo: show the text on the terminal, too.
        """
        self.path = path
        self.echo = echo
        self.lines = path.with_name("commands.jsonl")

    def command(
        self,
        arguments: Sequence[str],
        directory: Path,
        *,
        output: Path | None = None,
        source: Path | None = None,
        said: str = "",
    ) -> None:
        """Log a command that has run.

        :param directory: where it ran.
        :param output: the file that it made.
        :param source: the file that it compiled.
        :param said: what it printed.
        """
        text = f"cd {shlex.quote(str(directory))} && {shlex.join(arguments)}\n"
        if said:
            text += "".join(f"    {line}\n" for line in said.splitlines())
        record: dict[str, object] = {"directory": str(directory)}
        if source is not None:
            record["file"] = str(source)
        record["arguments"] = list(arguments)
        if output is not None:
            record["output"] = str(output)
        with _lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(text)
            with self.lines.open("a") as file:
                file.write(json.dumps(record) + "\n")
        if self.echo:
            print(printable(text, keep="\n\t"), end="")

    def note(self, line: str) -> None:
        """Add a line to the text."""
        with _lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line + "\n")
