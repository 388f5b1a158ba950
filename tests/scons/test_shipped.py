"""The tool in somebody's own SConstruct, as the wheel brings it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.scons.checkout import ROOT, Checkout

pytestmark = pytest.mark.slow

_BUILD = """\
import sys
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel that is made of the sdist, and the sdist."""
    directory = tmp_path_factory.mktemp("built")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(lambda name: name and (ROOT / name).is_file(), tracked):
        target = directory / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    _run_hook("build_sdist", directory / "checkout", directory)
    (sdist,) = directory.glob("*.tar.gz")
    shutil.unpack_archive(sdist, directory)
    _run_hook("build_wheel", directory / sdist.name.removesuffix(".tar.gz"), directory)
    return directory


def _run_hook(hook: str, source: Path, output: Path) -> None:
    command = [sys.executable, "-c", _BUILD, hook, str(output)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def site(built: Path) -> Path:
    """Where the wheel is installed, with SCons in the same place and nothing of this checkout."""
    site = built / "site"
    (wheel,) = built.glob("*.whl")
    libraries = Path(sysconfig.get_path("purelib"))
    # The other libraries may be elsewhere; this checkout must not be found.
    for entry in libraries.iterdir():
        if "klpbuild" not in entry.name and entry.suffix != ".pth" and entry.name != "SCons":
            (site / entry.name).parent.mkdir(exist_ok=True)
            (site / entry.name).symlink_to(entry)
    shutil.copytree(libraries / "SCons", site / "SCons")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.mark.parametrize(
    "text",
    [
        'env = Environment(tools=["livepatch"])\nenv.Livepatches()\n',
        "from klpbuild.scons import livepatch\n"
        "env = Environment(tools=[livepatch])\nenv.Livepatches()\n",
        'env = Environment(tools=["livepatch"], livepatches="fixes", KLP_BUILD="out")\n'
        "Help(env.LivepatchHelp())\nenv.Livepatches()\n",
    ],
)
def test_an_sconstruct_of_three_lines(
    text: str, site: Path, shared: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "SConstruct").write_text(text)
    shutil.copytree(
        shared.directory / "kernel-fixtures/livepatches/meminfo", tmp_path / "fixes" / "meminfo"
    )
    kernel = shared.directory / "build/fixtures/kernel"
    done = run_scons(site, tmp_path, f"kernel={kernel}")
    assert done.returncode == 0, done.stdout + done.stderr
    (module,) = tmp_path.glob("*/*/livepatch-meminfo.ko")
    assert module.read_bytes() == (shared.directory / "build/fixtures" / module.name).read_bytes()


def run_scons(site: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run SCons with the wheel alone, for a user who has fetched no kernel."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(site),
        "KLPBUILD_CACHE": str(directory / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-S", "-m", "SCons", "-Q", *words],
        cwd=directory, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_no_kernel_is_named(site: Path, tmp_path: Path) -> None:
    """What to write is told as SCons reads it."""
    (tmp_path / "SConstruct").write_text('Environment(tools=["livepatch"]).Livepatches()\n')
    done = run_scons(site, tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "scons: error: no kernel is fetched, and none is named\n"
        "  Run `klpbuild kernel fetch --source`, or name one: kernel=RELEASE.\n",
    )


def test_it_has_what_a_checkout_has(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        modes = {member.name.partition("/")[2]: member.mode for member in archive}
    for name in (
        "SConstruct",
        "docs/architecture.md",
        "kernel-fixtures/livepatches/meminfo/livepatch.toml",
        "kernel-fixtures/Makefile",
        "site_scons/site_tools/livepatch.py",
        "site_scons/development.py",
        "tests/scons/checkout.py",
        "requirements.lock",
    ):
        assert name in modes
    assert modes["scons"] & 0o100
