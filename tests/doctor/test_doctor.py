"""What `klpbuild doctor` says on machines that lack something."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.commands.doctor import report
from klpbuild.doctor.examine import State, examine
from klpbuild.doctor.needs import NEEDS, Manager
from klpbuild.doctor.system import System

DISTRIBUTIONS = {
    "debian": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "ubuntu": 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "fedora": 'PRETTY_NAME="Fedora Linux 41"\nID=fedora\n',
    "rocky": 'PRETTY_NAME="Rocky Linux 9"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "tumbleweed": 'PRETTY_NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="suse"\n',
    "arch": 'PRETTY_NAME="Arch Linux"\nID=arch\n',
    "other": 'PRETTY_NAME="Other Linux"\nID=other\n',
}
EVERYTHING = [
    "dpkg-deb",
    "lintian",
    "rpmbuild",
    "rpmlint",
    "openssl",
    "cpio",
    "modinfo",
    "ccache",
    "dot",
    "ld",
    "make",
    "flex",
    "bison",
    "bc",
    "xz",
    "qemu-system-x86_64",
    "busybox",
]


def machine(directory: Path, distribution: str, *programs: str, headers: bool = False) -> System:
    """A machine of this distribution with a few programs."""
    (directory / "etc").mkdir(parents=True)
    (directory / "etc/os-release").write_text(DISTRIBUTIONS[distribution])
    (directory / "bin").mkdir()
    for program in programs:
        path = directory / "bin" / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    if headers:
        for name in ("libelf.h", "openssl/ssl.h"):
            header = directory / "usr/include" / name
            header.parent.mkdir(parents=True, exist_ok=True)
            header.touch()
    return System(directory, str(directory / "bin"))


def said(system: System, kernel: str | None = None) -> list[str]:
    """The report, without the line of the disk."""
    lines = list(report(system, examine(system, kernel)))
    return [line for line in lines if not line.startswith(("disk:", "  ok       space"))]


def test_a_machine_with_little(tmp_path: Path) -> None:
    system = machine(tmp_path, "debian", "ld", "make", "modinfo", headers=True)
    root = tmp_path
    assert said(system) == [
        f"Debian GNU/Linux 12 (bookworm), {platform.machine()}, Python {platform.python_version()}",
        "to build livepatches:",
        "  missing  gcc",
        f"  ok       ld                  {root}/bin/ld",
        f"  ok       make                {root}/bin/make",
        "to build them from source patches:",
        "  missing  flex",
        "  missing  bison",
        "  missing  bc",
        "  missing  xz",
        f"  ok       libelf.h            {root}/usr/include/libelf.h",
        f"  ok       openssl/ssl.h       {root}/usr/include/openssl/ssl.h",
        "to boot them in QEMU:",
        "  missing  qemu-system-x86_64",
        "  missing  busybox             linked statically",
        "to make packages (optional):",
        "  -        dpkg-deb            makes .deb",
        "  -        lintian             checks .deb",
        "  -        rpmbuild            makes .rpm",
        "  -        rpmlint             checks .rpm",
        "  -        openssl             makes keys to sign with",
        "  -        cpio                unpacks .rpm",
        "for comfort (optional):",
        f"  ok       modinfo             {root}/bin/modinfo",
        "  -        ccache              compiles nothing twice",
        "  -        dot                 draws the reference graph",
        "  -        KVM                 without it QEMU emulates, a few seconds more",
        "optional: sudo apt install ccache cpio dpkg graphviz lintian openssl rpm rpmlint",
        "Required, and not there: gcc, flex, bison, bc, xz, qemu-system-x86_64, busybox",
        "  sudo apt install bc bison busybox-static flex gcc qemu-system-x86 xz-utils",
    ]


@pytest.mark.parametrize(
    ("distribution", "line"),
    [
        ("debian", "  sudo apt install gcc libelf-dev libssl-dev"),
        ("ubuntu", "  sudo apt install gcc libelf-dev libssl-dev"),
        ("fedora", "  sudo dnf install elfutils-libelf-devel gcc openssl-devel"),
        ("rocky", "  sudo dnf install elfutils-libelf-devel gcc openssl-devel"),
        ("tumbleweed", "  sudo zypper install gcc libelf-devel libopenssl-devel"),
        ("arch", "  sudo pacman -S gcc libelf openssl"),
    ],
)
def test_each_distribution_has_its_command(tmp_path: Path, distribution: str, line: str) -> None:
    system = machine(tmp_path, distribution, *EVERYTHING)
    shutil.copy(shutil.which("busybox") or pytest.skip("no busybox"), tmp_path / "bin/busybox")
    assert said(system)[-2:] == ["Required, and not there: gcc, libelf.h, openssl/ssl.h", line]


def test_an_unknown_distribution_gets_no_command(tmp_path: Path) -> None:
    lines = said(machine(tmp_path, "other", *EVERYTHING, "gcc"))
    assert lines[-1] == "Required, and not there: libelf.h, openssl/ssl.h, busybox"


def test_a_busybox_that_the_guest_cannot_run(tmp_path: Path) -> None:
    system = machine(tmp_path, "debian")
    shutil.copy("/bin/true", tmp_path / "bin/busybox")
    (found,) = [finding for finding in examine(system) if finding.name == "busybox"]
    assert (found.state, found.text) == (
        State.WRONG,
        f"{tmp_path}/bin/busybox needs shared libraries, which the guest has not",
    )


def test_a_kernel_that_is_not_fetched(tmp_path: Path) -> None:
    lines = said(machine(tmp_path, "debian"), "6.1.0-1-amd64")
    assert "kernel 6.1.0-1-amd64:" in lines
    assert "  missing  headers             kernel '6.1.0-1-amd64' is not known" in lines
    assert lines[-1] == "  klpbuild kernel fetch 6.1.0-1-amd64"


def test_every_required_need_has_a_package_everywhere() -> None:
    for need in NEEDS:
        if need.purpose.required:
            assert all(need.package(manager) for manager in Manager), need


def test_the_command_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "Required, and not there: gcc, ld, make, flex, bison, bc, xz, qemu-system-x86_64" in out
    assert os.environ["KLPBUILD_CACHE"] in out


@pytest.mark.kernel
def test_debians_kernel_and_its_compiler(
    debian_source_kernel: object, capsys: pytest.CaptureFixture[str]
) -> None:
    release = "6.1.0-47-cloud-amd64"
    assert main(["doctor", "--kernel", release]) == 0
    out = capsys.readouterr().out
    assert "12.2.0, which built the kernel\n" in out
    assert out.endswith("Everything that is required is there.\n")
