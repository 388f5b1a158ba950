"""The package for rpm."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.rpm import build_rpm, write_spec
from tests.package.demo import RELEASE, demo_package

NAME = f"livepatch-demo-{RELEASE}"


def needs_rpmbuild() -> None:
    if shutil.which("rpmbuild") is None and os.environ.get("KLPBUILD_REQUIRE_KERNEL") != "1":
        pytest.skip("rpmbuild is not installed")


def test_a_spec_file(module: Path, tmp_path: Path) -> None:
    spec, source = write_spec(demo_package(module), tmp_path)
    assert (spec.name, source.name) == (f"{NAME}.spec", f"{NAME}-1.2.tar.gz")
    text = spec.read_text()
    for line in (
        "%global __os_install_post %{nil}",
        "%global debug_package %{nil}",
        f"Name:           {NAME}",
        "Version:        1.2",
        f"Requires:       kernel-{RELEASE}",
        f"Provides:       livepatch-{RELEASE} = %{{version}}-%{{release}}",
        f"Conflicts:      livepatch-{RELEASE}",
        "* Tue Nov 14 2023 Livepatch Team <livepatch@team.invalid> - 1.2-1",
        "- Fixes CVE-2024-1234, CVE-2024-5678.",
    ):
        assert line in text.splitlines()
    with tarfile.open(source) as archive:
        names = archive.getnames()
    assert names == sorted(names)
    assert all(name.startswith(f"{NAME}-1.2/") for name in names)


def test_a_kernel_of_red_hat(module: Path, tmp_path: Path) -> None:
    release = "5.14.0-162.6.1.el9_1.x86_64"
    spec, _ = write_spec(demo_package(module, release=release), tmp_path)
    assert f"Requires:       kernel-uname-r = {release}\n" in spec.read_text()


def test_a_package(module: Path, tmp_path: Path) -> None:
    needs_rpmbuild()
    package = demo_package(module)
    write_spec(package, tmp_path / "a")
    first = build_rpm(package, tmp_path / "a")
    assert first.name == f"{NAME}-1.2-1.x86_64.rpm"
    query = ["rpm", "--dbpath", str(tmp_path / "database"), "-q", "-lv", "-p", str(first)]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    files = {line.split()[-1]: line.split()[0] for line in listed.splitlines()}
    assert files == {
        f"/lib/modules/{RELEASE}/updates/livepatch/livepatch-x.ko": "-rw-r--r--",
        f"/usr/lib/systemd/system/{NAME}.service": "-rw-r--r--",
        f"/usr/libexec/{NAME}": "drwxr-xr-x",
        f"/usr/libexec/{NAME}/livepatch": "-rwxr-xr-x",
    }
    time.sleep(1.1)  # rpm counts in seconds
    umask = os.umask(0o077)
    try:
        write_spec(package, tmp_path / "b")
        second = build_rpm(package, tmp_path / "b")
    finally:
        os.umask(umask)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in second.parent.iterdir()) == [
        f"{NAME}-1.2-1.x86_64.rpm",
        f"{NAME}-1.2.tar.gz",
        f"{NAME}.spec",
    ]


def test_macros_are_text(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rpm looks for sections and conditions after it expanded ``%%``."""
    ran = tmp_path / "ran"
    package = demo_package(module)
    livepatch = replace(
        package.livepatch,
        description=f"%post evil {'x' * 70} %if 0 %(touch {ran}) %{{lua:os.exit(1)}}",
        references=("%prep", f"%(touch {ran})"),
    )
    maintainer = f"A %(touch {ran}) 100% <a@b.invalid>"
    package = replace(package, livepatch=livepatch, maintainer=maintainer)
    write_spec(package, tmp_path / "a")
    made = build_rpm(package, tmp_path / "a")
    query = ["rpm", "--dbpath", str(tmp_path / "database"), "-q", "-p", str(made)]
    form = "--qf=%{DESCRIPTION}|%{CHANGELOGNAME}|%{CHANGELOGTEXT}|%{POSTIN}"
    said = subprocess.run([*query, form], capture_output=True, text=True, check=True).stdout
    description, name, changes, script = said.split("|", 3)
    assert description.startswith("\N{NO-BREAK SPACE}%post evil")
    assert name.startswith(maintainer)
    assert "%if 0" in changes and "%prep" in changes and "evil" not in script
    assert not ran.exists()


def test_without_rpmbuild(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = demo_package(module)
    write_spec(package, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KlpError) as error:
        build_rpm(package, tmp_path)
    assert str(error.value) == (
        "rpmbuild is not installed\n  It makes the packages.\n  Run: apt-get install rpm"
    )
