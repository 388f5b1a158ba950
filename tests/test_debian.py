"""The Debian package of klpbuild itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from klpbuild import __version__
from tests.bare_debian import BareDebian

ROOT = Path(__file__).parent.parent
CONTROL = (ROOT / "debian/control").read_text()

#: Debian's names of the libraries, where they are not python3-NAME.
NAMES = {"scons": "scons", "cyclonedx-python-lib": "python3-cyclonedx-lib"}

#: The first suite whose libraries are new enough.
SUITE = "forky"


def test_it_has_the_version() -> None:
    first = (ROOT / "debian/changelog").read_text().split("\n", 1)[0]
    assert first == f"klpbuild ({__version__}) unstable; urgency=medium"


def test_it_needs_the_libraries() -> None:
    wanted = {}
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, version = each.split(">=")
        wanted[NAMES.get(name, f"python3-{name}")] = version
    for part in CONTROL.split("\n\n"):  # to build it, and to use it
        given = dict(re.findall(r"^ (\S+) \(>= (?:1:)?(.*)\),$", part, re.MULTILINE))
        assert {name: given.get(name) for name in wanted} == wanted


@pytest.mark.bare_debian
def test_it_is_built_installed_and_used(tmp_path: Path) -> None:
    with BareDebian(tmp_path, SUITE) as session:

        def does(command: str) -> str:
            printed, status = session.type(command)
            assert status == 0, "\n".join((command, *printed))
            return "\n".join(printed)

        does("sudo apt-get install --no-install-recommends build-essential git lintian man-db")
        does("git clone URL klpbuild && cd klpbuild && sudo apt-get build-dep ./")
        does("dpkg-buildpackage --no-sign")
        assert does("lintian --tag-display-limit 0 ../klpbuild_*.changes") == ""
        does("cd && sudo apt-get install --no-install-recommends ./klpbuild_*_all.deb")
        assert does("klpbuild --version").startswith(f"klpbuild {__version__}")
        assert "klpbuild kernel fetch" in does("man klpbuild")
        # The samples, with nothing of the repository's own but them.
        does("mkdir empty && cp -r klpbuild/kernel-fixtures empty && cd empty")
        does("echo 'Environment(tools=[\"livepatch\"]).Livepatches()' >SConstruct")
        said = does(
            "scons kernel=fixtures livepatches=kernel-fixtures/livepatches livepatch=meminfo"
        )
        assert "would load it: nothing found" in said
