"""The command line as a whole."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from klpbuild.cli import command_names, main, make_parser
from klpbuild.terminal.manual import commands
from tests.docs.session import ROOT


def test_without_words_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().out
    assert said.startswith("usage: klpbuild [-h] [--color WHEN] [--version] COMMAND ...\n")
    assert all(f"\n    {name}" in said for name in command_names())


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["status", "-h"]])
def test_only_the_command_is_imported(words: list[str]) -> None:
    program = f"""
import sys
from pathlib import Path
from klpbuild.cli import main
try:
    main({words!r})
except SystemExit as ended:
    assert not ended.code
own = [name for name in sys.modules if name.startswith("klpbuild.commands.")]
print(own, "numpy" in sys.modules, "rich" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = [f"klpbuild.commands.{words[0]}"] if words[0] == "status" else []
    assert done.stderr.startswith(f"{expected} "), done.stderr
    if words[0] != "status":
        assert done.stderr == "[] False False\n"


def run(shell: str, **environment: str) -> tuple[int, str, str]:
    """Run the command line by a shell, as ``$K``; exit status, output and errors."""
    command = f'K() {{ {sys.executable} -m klpbuild.cli "$@"; }}; {shell}'
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "shell, status, errors",
    [
        ("K -h >&-", 0, ""),
        ("K symbols -h 2>&-", 0, ""),
        ("K nonsense >&- 2>&-", 2, ""),
        ("K -h <&- >&- 2>&-", 0, ""),
        ("K -h > /dev/full", 1, "klpbuild: error: standard output: No space left on device\n"),
        ("K --version > /dev/full", 1, "klpbuild: error: standard output: No space left on dev"),
        ("PYTHONUNBUFFERED=1 K -h > /dev/full", 1, "klpbuild: error: no space left on device\n"),
        ("PYTHONUNBUFFERED=1 K info -h > /dev/full", 1, "klpbuild: error: no space left on device"),
        ("PYTHONUNBUFFERED=1 K --version > /dev/full", 1, "klpbuild: error: no space left on dev"),
        ("K completion zsh | head -1 >/dev/null", 0, ""),
        ("K check --kernel $'\\xff' /nowhere", 2, "klpbuild: error: kernel '\\udcff' is not known"),
    ],
)
def test_whatever_the_shell_does_with_its_streams(shell: str, status: int, errors: str) -> None:
    ended, _, said = run(shell, LC_ALL="C", TERM="dumb")
    assert (ended, said[: len(errors)]) == (status, errors), said


@pytest.mark.parametrize("name", ["a/b", "../x", "x" * 46, "it's", 'a"b', "", "ä", "a b", "$HOME"])
@pytest.mark.parametrize(
    "words", [["build", "--name=NAME", "x.patch"], ["new", "--patch=x", "NAME"]]
)
def test_a_livepatchs_name_is_checked_at_once(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [word.replace("NAME", name) for word in words]
    assert main([*command, "--kernel", "there-is-none"]) == 1
    first, _, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(f"klpbuild: error: livepatch name {name!r} ")
    assert hint.startswith("  Choose another one")


def test_a_directory_in_place_of_a_patch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(tmp_path), "--kernel", "there-is-none"]) == 1
    first, *_, hint = capsys.readouterr().err.splitlines()
    assert first == f"klpbuild: error: {tmp_path}: is a directory"
    assert hint == f"  ./scons livepatches={tmp_path.parent} livepatch={tmp_path.name}"


def test_an_interrupt_ends_in_one_line() -> None:
    """Also one that comes while modules are imported."""
    program = """
import os, signal, sys
from klpbuild.cli import main
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.exit(main())
"""
    for name in ("klpbuild.commands", "argparse", "klpbuild.commands.check", "klpbuild.errors"):
        done = subprocess.run(
            [sys.executable, "-c", program, "check", name], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (130, "klpbuild: interrupted\n"), name


def test_an_interrupt_while_python_starts_waits() -> None:
    """`./scons` lets the script start with interrupts blocked, where `env` can do so."""
    script = f"kill -INT $$; exec {sys.executable} -m klpbuild.cli -h"
    done = subprocess.run(
        ["env", "--block-signal=INT", "sh", "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "klpbuild: interrupted\n")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_lets_it_clean_up(ending: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import tempfile, time
from klpbuild import cli
class Stay:
    def __call__(self):
        cli._prepare()
        with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
            print("there", flush=True)
            time.sleep(60)
cli._Run = lambda arguments: Stay()
cli.main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        assert list(tmp_path.iterdir())
        process.send_signal(ending)
        assert (process.stderr.read(), process.wait(30)) == (b"", 128 + ending)
    assert not list(tmp_path.iterdir())


def test_the_help_of_each_command_has_an_example_that_can_be_typed() -> None:
    parser = make_parser()
    for command in list(commands(parser))[1:]:
        assert re.search(r"^Examples?:$", command.text, re.MULTILINE), command.name
        examples = re.findall(r"^    (?:sudo )?klpbuild (.*)$", command.text, re.MULTILINE)
        for example in examples:
            words = shlex.split(example.partition(" > ")[0])
            assert f"klpbuild {' '.join(words)}".startswith(command.name)
            if words[0] != "cc":  # which reads its words itself
                assert callable(parser.parse_args(words).run)
        assert examples, command.name


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["biuld", "x.patch"],
            "klpbuild: error: command 'biuld' is not known\n  Did you mean build?\n  Known: boot, ",
        ),
        (["xyzzy"], "klpbuild: error: command 'xyzzy' is not known\n  Known: boot, "),
    ],
)
def test_a_command_that_is_not_known(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("word", ["--kernal", "--kernal=fixtures"])
def test_an_option_that_is_not_known(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", word, "x.ko"])
    assert ended.value.code == 2
    said = f"klpbuild: error: unrecognized arguments: {word}  Did you mean --kernel?\n"
    assert capsys.readouterr().err.endswith(said)


def test_json_of_what_is_looked_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"heading", "state", "name", "package"} <= found[0].keys()
    assert {each["state"] for each in found} <= {"ok", "missing", "wrong", "absent"}
    shutil.copytree(ROOT / "kernel-fixtures", tmp_path / "kernel-fixtures")
    monkeypatch.chdir(tmp_path)
    assert main(["symbols", "si_meminfo", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (symbol,) = document["found"]
    assert (symbol["object"], symbol["symbol"]) == ("vmlinux", "si_meminfo")
    assert (tmp_path / document["file"]).is_file()
