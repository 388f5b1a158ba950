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
from tests.kernel.machines import CONFIG, prepared_tree, write

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


def about(kernel: str, system: System) -> list[str]:
    """The lines of a kernel, without that of the disk."""
    lines = said(system, kernel)
    start = lines.index(f"kernel {kernel}:")
    return [line for line in lines[start + 1 :] if "GB more" not in line]


def test_what_a_kernel_needs_and_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
    programs = tmp_path / "programs"
    for name, line in (("gcc", "gcc (Debian 14.2.0-19) 14.2.0"), ("ld", "GNU ld 2.44")):
        write(programs / name, f"#!/bin/sh\necho '{line}'\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    release = "6.11.4-301.fc41.x86_64"
    tree = tmp_path / "root/usr/src/kernels" / release
    prepared_tree(tree, release, CONFIG + "CONFIG_LD_VERSION=24000\n")
    write(tmp_path / "root/boot" / f"vmlinuz-{release}")
    system = machine(tmp_path / "machine", "debian", *EVERYTHING, "gcc", headers=True)
    shutil.copy("/bin/busybox", tmp_path / "machine/bin/busybox")
    lines = about(str(tree), system)
    assert lines == [
        f"  ok       headers             {tree}",
        "  -        modules             0",
        f"  wrong    compiler            the kernel was built by {gcc}, this machine has gcc "
        "(Debian 14.2.0-19) 14.2.0: the same source may become other code; gcc-12 would be the "
        "right one",
        "  ok       linker              GNU ld 2.44; the kernel was linked by 2.40",
        f"  ok       image               {tmp_path}/root/boot/vmlinuz-{release}",
        "  -        debug symbols       patches are not built; hand-written livepatches are.  "
        f"Install kernel-debuginfo-{release}, or name it with --vmlinux (scons: VMLINUX=).",
        "  -        source              patches are not built; hand-written livepatches are.  "
        "No package of files has it: unpack the source package and name it with --source "
        "(scons: KSRC=).",
        "Required, and not there: compiler",
        "  sudo apt install gcc-12",
    ]
    for name in ("gcc", "ld"):
        (programs / name).unlink()
    modpost = write(
        tree / "scripts/mod/modpost",
        '#!/bin/sh\necho "libc.so.6: version \\`GLIBC_2.38\' not found" >&2; exit 1\n',
    )
    modpost.chmod(0o755)
    lines = about(str(tree), system)
    assert lines[2:5] == [
        "  missing  compiler            no compiler for x86_64 is on this machine; the kernel was "
        f"built by {gcc}",
        "  missing  linker              ld is not on this machine",
        "  wrong    tools               scripts/mod/modpost needs a newer C library than this "
        "machine has",
    ]
    assert lines[-2:] == [
        "Required, and not there: compiler, linker, tools",
        "  sudo apt install binutils gcc-12",
    ]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (
            "",
            "  missing  unusable            CONFIG_LIVEPATCH is not set: this kernel cannot load "
            "livepatches",
        ),
        (
            "CONFIG_LIVEPATCH=y\nCONFIG_LTO_CLANG=y\n",
            "  missing  unusable            CONFIG_LTO_CLANG is set: this kernel is optimised when "
            "it is linked",
        ),
        (
            "CONFIG_LIVEPATCH=y\nCONFIG_RANDSTRUCT=y\n",
            "  missing  unusable            CONFIG_RANDSTRUCT is set, and its seed is not here",
        ),
    ],
)
def test_a_kernel_that_cannot_be_patched(tmp_path: Path, option: str, line: str) -> None:
    tree = prepared_tree(tmp_path / "linux", "6.1.170-own", "CONFIG_X86_64=y\n" + option)
    lines = about(str(tree), machine(tmp_path / "machine", "debian"))
    assert lines[0] == line
    assert sum("unusable" in each for each in lines) == 2, "there and in the summary"


def test_a_kernel_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = "s390x-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0"
    config = f'CONFIG_CC_VERSION_TEXT="{gcc}"\nCONFIG_S390=y\nCONFIG_LIVEPATCH=y\n'
    tree = prepared_tree(tmp_path / "linux", "6.12-own", config)
    system = machine(tmp_path / "machine", "debian", "gcc", *EVERYTHING, headers=True)
    shutil.copy("/bin/busybox", tmp_path / "machine/bin/busybox")
    monkeypatch.setenv("PATH", str(tmp_path / "machine/bin"))
    lines = about(str(tree), system)
    assert lines[2:5] == [
        "  missing  compiler            no compiler for s390x is on this machine; the kernel was "
        f"built by {gcc}",
        "  missing  linker              s390x-linux-gnu-ld is not on this machine",
        "  -        emulator            qemu-system-s390x is not on this machine: "
        "`klpbuild boot` does not work",
    ]
    assert lines[-3:] == [
        "optional: sudo apt install qemu-system-misc",
        "Required, and not there: compiler, linker",
        "  sudo apt install binutils-s390x-linux-gnu gcc-12-s390x-linux-gnu",
    ]


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
