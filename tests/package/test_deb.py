"""The package for dpkg."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.deb import build_deb
from tests.package.demo import RELEASE, demo_package

NAME = f"livepatch-demo-{RELEASE}"


def dpkg_deb(*words: str) -> str:
    done = subprocess.run(["dpkg-deb", *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_package(module: Path, tmp_path: Path) -> None:
    deb = build_deb(demo_package(module), tmp_path / "dist")
    assert deb == tmp_path / "dist" / f"{NAME}_1.2_amd64.deb"
    assert dpkg_deb("--field", str(deb)) == (
        f"Package: {NAME}\n"
        "Version: 1.2\n"
        "Architecture: amd64\n"
        "Maintainer: Livepatch Team <livepatch@team.invalid>\n"
        "Installed-Size: 38\n"
        f"Depends: linux-image-{RELEASE} (= 6.1.170-3)"
        f" | linux-image-{RELEASE}-unsigned (= 6.1.170-3)"
        f" | linux-image-unsigned-{RELEASE} (= 6.1.170-3), kmod\n"
        f"Provides: livepatch-{RELEASE}, livepatch-cve-2024-1234, livepatch-cve-2024-5678\n"
        f"Conflicts: livepatch-{RELEASE}\n"
        f"Replaces: livepatch-{RELEASE}\n"
        "Section: kernel\n"
        "Priority: optional\n"
        f"Description: kernel livepatch for Linux {RELEASE}\n"
        " a line of its own in /proc/version\n"
        " .\n"
        " Fixes CVE-2024-1234, CVE-2024-5678.\n"
        " .\n"
        " The livepatch replaces functions of the running kernel, without a reboot. It\n"
        " is loaded when it is installed and at each boot of exactly this kernel,\n"
        " unless the kernel command line says livepatch.enable=0.\n"
    )
    dpkg_deb("-x", str(deb), str(tmp_path / "root"))
    installed = f"lib/modules/{RELEASE}/updates/livepatch/livepatch-x.ko"
    assert (tmp_path / "root" / installed).read_bytes() == module.read_bytes()
    changelog = tmp_path / "root" / "usr/share/doc" / NAME / "changelog.gz"
    text = subprocess.run(["zcat", changelog], capture_output=True, text=True, check=True).stdout
    assert text == (
        f"{NAME} (1.2) unstable; urgency=medium\n\n"
        "  * a line of its own in /proc/version\n"
        "  * Fixes CVE-2024-1234, CVE-2024-5678.\n\n"
        " -- Livepatch Team <livepatch@team.invalid>  Tue, 14 Nov 2023 22:13:20 +0000\n"
    )
    dpkg_deb("-e", str(deb), str(tmp_path / "control"))
    sums = tmp_path / "control" / "md5sums"
    subprocess.run(["md5sum", "--quiet", "-c", sums], cwd=tmp_path / "root", check=True)
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", tmp_path / "control" / script], check=True)


def test_of_a_kernel_of_unknown_version(module: Path, tmp_path: Path) -> None:
    deb = build_deb(demo_package(module, kernel_version=""), tmp_path)
    assert dpkg_deb("--field", str(deb), "Depends") == (
        f"linux-image-{RELEASE} | linux-image-{RELEASE}-unsigned"
        f" | linux-image-unsigned-{RELEASE}, kmod\n"
    )


def test_same_bytes_in_other_circumstances(module: Path, tmp_path: Path) -> None:
    first = build_deb(demo_package(module), tmp_path / "a").read_bytes()
    elsewhere = tmp_path / "b" / "livepatch-x.ko"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(module.read_bytes())
    elsewhere.chmod(0o600)
    umask = os.umask(0o077)
    try:
        second = build_deb(demo_package(elsewhere), tmp_path / "b").read_bytes()
    finally:
        os.umask(umask)
    assert first == second
    later = build_deb(demo_package(module, epoch=1_700_000_001), tmp_path / "c").read_bytes()
    assert first != later


def test_without_dpkg(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KlpError) as error:
        build_deb(demo_package(module), tmp_path / "dist")
    assert str(error.value) == (
        "dpkg-deb is not installed\n  It makes the packages.\n  Run: apt-get install dpkg"
    )
    assert not (tmp_path / "dist").exists()


def test_a_failure_leaves_nothing(module: Path, tmp_path: Path) -> None:
    package = demo_package(module, maintainer="no\nmaintainer")
    with pytest.raises(KlpError, match="dpkg-deb fails with exit status 2"):
        build_deb(package, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
