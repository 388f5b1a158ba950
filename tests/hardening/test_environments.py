"""Environments that are not what a developer has: what is said there, and what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hardening.test_outputs import outputs
from tests.scons.checkout import Checkout

#: Takes from root what lets it write and read everything.
PLAIN_USER = "setpriv --bounding-set=-dac_override,-dac_read_search -- "
SCONS = f"{sys.executable} -m SCons -Q livepatch=meminfo"
CHECK = f"{sys.executable} -m klpbuild.cli check build/fixtures/livepatch-meminfo.ko"
SYMBOLS = f"{sys.executable} -m klpbuild.cli symbols --kernel fixtures"
GRAPH = f"{sys.executable} -m klpbuild.cli graph build/fixtures/livepatch-meminfo.ko"


@dataclass(frozen=True)
class Environment:
    """A way to run a command, and how it ends.

    :ivar shell: the command.
    :ivar says: what is in what it says, output and errors.
    :ivar unset: variables that it does not have.
    """

    shell: str
    status: int = 0
    says: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


ENVIRONMENTS = {
    "no HOME": Environment(SCONS, unset=("HOME", "KLPBUILD_CACHE")),
    "HOME is nowhere": Environment(SCONS, variables={"HOME": "/nowhere"}),
    "TMPDIR is nowhere": Environment(SCONS, variables={"TMPDIR": "/nowhere"}),
    "no TERM": Environment(SCONS, variables={"TERM": "dumb"}),
    "C locale": Environment(SCONS, variables={"LC_ALL": "C", "LANG": "C"}),
    "a locale of other letters": Environment(
        SCONS,
        2,
        "scons: error: Python takes texts for ascii, as the locale says\n"
        "  Set PYTHONUTF8=1, as ./scons does.\n",
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    "check: a locale of other letters": Environment(
        CHECK, variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    "DESTDIR is a link in a circle": Environment(
        f"ln -sfn circle circle; {SCONS} install DESTDIR=circle",
        2,
        "circle/lib/modules/6.1.0-fixtures/updates/livepatch: too many levels of symbolic links\n",
    ),
    "links in DESTDIR in a circle": Environment(
        f"mkdir -p root; ln -sfn lib root/lib; {SCONS} install DESTDIR=root",
        2,
        "root/lib/modules/6.1.0-fixtures/updates/livepatch: too many levels of symbolic links\n",
    ),
    "another language": Environment(SCONS, variables={"LC_ALL": "de_DE.UTF-8"}),
    "umask": Environment(f"umask 077; {SCONS}"),
    "no input": Environment(f"{SCONS} <&-"),
    "no errors": Environment(f"{SCONS} 2>&-"),
    "full output": Environment(f"{SCONS} >/dev/full"),
    "reader that leaves": Environment(f"{SCONS} | head -0"),
    "no make": Environment(SCONS, 2, "make is not on this machine", {"PATH": "/nowhere"}),
    "cache is a file": Environment(
        SCONS, 2, "/dev/null: is not a directory\n", {"KLPBUILD_CACHE": "/dev/null"}
    ),
    "few files": Environment(f"ulimit -n 8; {SCONS}", 2, "error: too many open files"),
    "small files": Environment(f"ulimit -f 1; {SCONS}", 2, "cannot be written: File too large"),
    "little memory": Environment(f"ulimit -v 50000; {CHECK}", 2, "there is not enough memory\n"),
    "check: no HOME": Environment(CHECK, unset=("HOME", "KLPBUILD_CACHE")),
    "check: no output": Environment(f"{CHECK} >&-"),
    "check: full output": Environment(
        f"{CHECK} >/dev/full", 1, "klpbuild: error: standard output: No space left on device\n"
    ),
    "check: no kernel": Environment(f"{CHECK} --kernel nowhere", 2, "kernel 'nowhere' is not"),
    "check: no symbols": Environment(
        f"{CHECK} --kernel fixtures --symbols nowhere", 2, "nowhere: there is no such file"
    ),
    "check: cache is a file": Environment(
        f"{CHECK} --kernel x", 2, "/dev/null: is not a directory\n", {"KLPBUILD_CACHE": "/dev/null"}
    ),
    "check: a directory": Environment(f"{CHECK}/..", 2, "meminfo.ko/..: cannot be read: Not a dir"),
    "graph: no output": Environment(f"{GRAPH} >&-"),
    "graph: full output": Environment(f"{GRAPH} >/dev/full", 1, "No space left on device"),
    "graph: reader that leaves": Environment(f"{GRAPH} | head -1"),
    "symbols: TMPDIR is nowhere": Environment(SYMBOLS, variables={"TMPDIR": "/nowhere"}),
    "symbols: small files": Environment(
        f"ulimit -f 1; {SYMBOLS} -o other.klp", 1, "cannot be written: File too large"
    ),
}


def run(checkout: Checkout, environment: Environment) -> tuple[int, str]:
    variables = {**checkout.environment, "HOME": str(checkout.directory), **environment.variables}
    for name in environment.unset:
        variables.pop(name, None)
    done = subprocess.run(
        ["/bin/bash", "-c", environment.shell],
        cwd=checkout.directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said and 'File "' not in said and "Exception" not in said, said
    return done.returncode, said


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment(shared: Checkout, name: str) -> None:
    """A build from the beginning; afterwards an ordinary run gives the same bytes."""
    environment = ENVIRONMENTS[name]
    clean = outputs(shared)
    if SCONS in environment.shell:
        (shared.directory / "build/fixtures/livepatch-meminfo.ko").unlink()
        shutil.rmtree(shared.directory / "build/fixtures/livepatch-meminfo")
    status, said = run(shared, environment)
    assert (status, environment.says in said) == (environment.status, True), said
    shared.scons("livepatch=meminfo")
    assert outputs(shared) == clean


@pytest.fixture
def locked_away(shared: Checkout) -> Iterator[Path]:
    """The directory of outputs; whatever a test takes of its permissions comes back."""
    build = shared.directory / "build"
    yield build
    subprocess.run(["chmod", "-R", "u+rwX", str(build)], check=True)


@pytest.mark.parametrize("place", [".", "fixtures", "fixtures/livepatch-meminfo"])
def test_a_directory_of_outputs_that_cannot_be_written(
    shared: Checkout, locked_away: Path, place: str
) -> None:
    clean = outputs(shared)
    (locked_away / "fixtures/livepatch-meminfo/tables.o").unlink()
    (locked_away / place).chmod(0o555)
    prefix = PLAIN_USER if os.getuid() == 0 else ""
    status, said = run(shared, Environment(prefix + SCONS))
    assert status == 2 and "Permission denied" in said, said
    (locked_away / place).chmod(0o755)
    shared.scons("livepatch=meminfo")
    assert outputs(shared) == clean


@pytest.mark.parametrize("name", [".lock", ".sconsign.dblite", "fixtures/timings.jsonl"])
def test_a_file_that_cannot_be_read(shared: Checkout, locked_away: Path, name: str) -> None:
    clean = outputs(shared)
    (locked_away / name).chmod(0)
    prefix = PLAIN_USER if os.getuid() == 0 else ""
    (locked_away / "fixtures/livepatch-meminfo/tables.o").unlink()
    status, said = run(shared, Environment(prefix + SCONS))
    assert status in (0, 2), said
    subprocess.run(["chmod", "-R", "u+rwX", str(locked_away)], check=True)
    shared.scons("livepatch=meminfo")
    assert outputs(shared) == clean


def test_a_full_disk(shared: Checkout, tmp_path: Path) -> None:
    """Wherever it becomes full, and SCons' own database with it."""
    clean = outputs(shared)
    build, kept = shared.directory / "build", tmp_path / "kept"
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(build)]
    shutil.copytree(build, kept, symlinks=True)
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(kept, build, symlinks=True, dirs_exist_ok=True)
        for left in (0, 4096, 20_000, 50_000, 100_000, 200_000):
            (build / "fixtures/livepatch-meminfo.ko").unlink(missing_ok=True)
            shutil.rmtree(build / "fixtures/livepatch-meminfo", ignore_errors=True)
            with (build / "ballast").open("wb") as ballast:
                free = os.statvfs(build).f_bavail * os.statvfs(build).f_bsize
                ballast.write(bytes(max(free - left, 0)))
            status, said = run(shared, Environment(SCONS))
            assert status in (0, 2), said
            assert status == 0 or "o space left" in said or "I/O error" in said, said
            (build / "ballast").unlink()
            shared.scons("livepatch=meminfo")
            assert outputs(shared) == clean
        assert not list(build.rglob("*.new"))
    finally:
        subprocess.run(["umount", str(build)], check=True)


def test_a_long_path(tmp_path: Path) -> None:
    """Longer than a name that make and the compiler see, shorter than the system's limit."""
    place = tmp_path
    while len(str(place)) < 1500:
        place = place / ("d" * 200)
    checkout = Checkout(place / "klpbuild")
    status, said = run(checkout, Environment(SCONS))
    assert status == 0, said


@pytest.mark.parametrize("name", ["a b", "it's", "x$y", "ü ñ"])
def test_a_path_that_make_cannot_take(tmp_path: Path, name: str) -> None:
    checkout = Checkout(tmp_path / name)
    status, said = run(checkout, Environment(SCONS))
    assert status == 2 and "kbuild cannot work in this directory" in said, said
    assert not list((tmp_path / name / "build").glob("*/*.ko"))


def test_a_path_of_other_letters(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "ünïcödé-日本")
    status, said = run(checkout, Environment(SCONS, variables={"LC_ALL": "C"}))
    assert status == 0, said
