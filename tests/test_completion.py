"""Real shells complete what `klpbuild completion` prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.cli import main

BASH = """
source {script}
complete -p klpbuild
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_klpbuild
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def cache(cache_dir: Path) -> Path:
    """A cache with two fetched kernels, and a name that a shell would run."""
    for release in ("6.1.0-1-amd64", "6.12.2-amd64", "$(touch ran; echo 6.12.3)"):
        (cache_dir / "kernels" / release).mkdir(parents=True)
    return cache_dir


def script(shell: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The script, in a file."""
    assert main(["completion", shell]) == 0
    path = directory / f"klpbuild.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def run(*command: str) -> list[str]:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("klpbuild ke", {"kernel"}),
        ("klpbuild kernel ''", {"fetch", "add", "list"}),
        ("klpbuild kernel fetch --so", {"--source"}),
        ("klpbuild boot x.ko --kernel ''", {"fixtures", "6.1.0-1-amd64", "6.12.2-amd64"}),
        ("klpbuild kernel fetch 6.12", {"6.12.2-amd64"}),
        ("klpbuild check --fail-on w", {"warning"}),
    ],
)
def test_bash(
    words: str,
    expected: set[str],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = BASH.format(script=script("bash", tmp_path, capsys), words=words)
    registered, *found = run("bash", "-c", program)
    assert registered == "complete -o bashdefault -F _shtab_klpbuild klpbuild"
    assert set(found) == expected


def test_bash_completes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("bash", tmp_path, capsys)
    (tmp_path / "livepatch-a.ko").touch()
    program = BASH.format(script=path, words=f"klpbuild check {tmp_path}/live")
    assert run("bash", "-c", program)[1:] == [f"{tmp_path}/livepatch-a.ko"]


def test_fish(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    path = script("fish", tmp_path, capsys)
    lines = run("fish", "-c", f"source {path}; complete -C 'klpbuild boot x.ko --kernel '")
    words = {line.partition("\t")[0] for line in lines}
    assert words == {"fixtures", "6.1.0-1-amd64", "6.12.2-amd64"}


def test_zsh_takes_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    path = script("zsh", tmp_path, capsys)
    path.rename(tmp_path / "_klpbuild")
    program = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -D -u; "
        "print $_comps[klpbuild]; autoload +X _klpbuild; print $functions[_klpbuild]"
    )
    lines = run("zsh", "-f", "-c", program)
    assert lines[0] == "_klpbuild"
    assert any("_klpbuild_kernels" in line for line in lines[1:])


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "csh"])
    assert stopped.value.code == 2
    assert "invalid choice: 'csh' (choose from 'bash', 'zsh', 'fish')" in capsys.readouterr().err
