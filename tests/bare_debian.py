"""A new Debian, made by mmdebstrap from the machine's own mirrors, and a shell in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.session import Session, make_checkout

#: Where a machine says which mirrors it uses: they are its own affair.
_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))

#: How a machine gets through to them and to Python's libraries, if it has to be told.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL")

#: Makes an ordinary user, whose home has the repository, and leaves the shell to them.
#: Their "y" is given beforehand.
_SETUP = """#!/bin/sh -e
chroot "$1" useradd --create-home --shell /bin/bash reader
cp -r "$KLPBUILD_GIVEN/URL" "$1/home/reader/"
chroot "$1" chown -R reader: /home/reader
echo 'reader ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/reader"
echo 'APT::Get::Assume-Yes "true";' >"$1/etc/apt/apt.conf.d/yes"
cat "$KLPBUILD_GIVEN/environment" >>"$1/etc/environment"
[ ! -e "$KLPBUILD_GIVEN/authorities" ] || cp "$KLPBUILD_GIVEN/authorities" "$1/etc/"
exec chroot "$1" su --login reader --command 'exec bash --norc'
"""


class BareDebian(Session):
    """A shell of the user ``reader`` in a new Debian, which is gone when it ends.

    The repository lies in their home, under the name ``URL`` that documents give it.
    """

    def __init__(self, given: Path, suite: str) -> None:
        sources = _sources(suite)
        if sources is None or shutil.which("mmdebstrap") is None:
            pytest.skip(f"needs mmdebstrap, and a mirror of Debian in {_SOURCES[0].parent}")
        _prepare(given)
        (given / "sources").write_text(sources)
        command = [
            "mmdebstrap", "--quiet", "--variant=important", "--include=sudo", "--format=null",
            f"--aptopt={given / 'apt.conf'}", f"--customize-hook={given / 'setup'}",
            suite, "/dev/null", str(given / "sources"),
        ]  # fmt: skip
        self._begin(command, env={**os.environ, "KLPBUILD_GIVEN": str(given)})
        self._cache = "/home/reader/.cache/klpbuild"


def _sources(suite: str) -> str | None:
    """The lines for apt: as this machine has them, if it has this suite."""
    for path in _SOURCES:
        text = path.read_text() if path.exists() else ""
        if suite in text:
            return text
        if mirror := re.search(r"^(?:URIs:|deb(?: \[.*\])?) *(\S+)", text, re.MULTILINE):
            keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
            return f"deb [signed-by={keys}] {mirror[1]} {suite} main\n"
    return None


def _prepare(given: Path) -> None:
    """Write what the new Debian gets: the repository, and the way to the mirrors."""
    repository = given / "URL"
    repository.mkdir()
    make_checkout(repository)
    shutil.rmtree(repository / ".venv")
    somebody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.invalid")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *somebody, *words], cwd=repository, check=True)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if certificates := os.environ.get("PIP_CERT"):
        shutil.copy(certificates, given / "authorities")
        environment["PIP_CERT"] = "/etc/authorities"
    environment["DEBIAN_FRONTEND"] = "noninteractive"
    lines = [f"{name}={value}\n" for name, value in environment.items()]
    (given / "environment").write_text("".join(lines))
    settings = ["apt-config", "dump", "Acquire::Check-Valid-Until", "Acquire::http::Proxy"]
    said = subprocess.run(settings, capture_output=True, text=True, check=True).stdout
    (given / "apt.conf").write_text(said)
    (given / "setup").write_text(_SETUP)
    (given / "setup").chmod(0o755)
