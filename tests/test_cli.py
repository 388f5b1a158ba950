"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from klpbuild.cli import command_names, main


def test_without_words_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().out
    assert said.startswith("usage: klpbuild [-h] [--version] COMMAND ...\n")
    assert all(f"\n    {name}" in said for name in command_names())


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["symbols", "-h"]])
def test_only_the_command_is_imported(words: list[str]) -> None:
    program = f"""
import sys
from klpbuild.cli import main
try:
    main({words!r})
except SystemExit as ended:
    assert not ended.code
own = [name for name in sys.modules if name.startswith("klpbuild.commands.")]
print(own, "numpy" in sys.modules, "rich" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = [f"klpbuild.commands.{words[0]}"] if words[0] == "symbols" else []
    assert done.stderr.startswith(f"{expected} "), done.stderr
    if words[0] != "symbols":
        assert done.stderr == "[] False False\n"
