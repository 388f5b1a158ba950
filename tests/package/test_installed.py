"""Packages on a Debian in QEMU: installed, rebooted, upgraded, switched off, removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.package.meta import flavour_of
from tests.package.debian_guest import DebianGuest, Ran
from tests.package.debian_root import make_disk
from tests.package.demo import write_demo

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

ROOT = Path(__file__).parent.parent.parent
TOOLS = ("dpkg-deb", "rpmbuild", "lintian", "rpmlint", "mke2fs")


@dataclass(frozen=True)
class Built:
    """The packages of one version."""

    deb: Path
    meta: Path
    spec: Path
    source: Path
    rpm: Path


@dataclass(frozen=True)
class Packages:
    """The packages of two versions of one livepatch."""

    kernel: Kernel
    first: Built
    second: Built

    @property
    def name(self) -> str:
        return f"livepatch-demo-{self.kernel.release}"

    @property
    def debs(self) -> tuple[Path, Path]:
        return self.first.deb, self.second.deb

    @property
    def rpms(self) -> tuple[Path, Path]:
        return self.first.rpm, self.second.rpm


@pytest.fixture(scope="session")
def packages(debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Built as a user builds them."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and os.environ.get("KLPBUILD_REQUIRE_KERNEL") != "1":
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert missing == []
    base = tmp_path_factory.mktemp("packages")
    first = build_dist(base / "first", debian_kernel, "1", jobs=1)
    second = build_dist(base / "first", debian_kernel, "2", jobs=1)
    return Packages(debian_kernel, first, second)


def build_dist(directory: Path, kernel: Kernel, version: str, jobs: int) -> Built:
    """Build the packages of a version in a checkout, as a user does."""
    if not directory.exists():
        for name in ("klpbuild", "site_scons"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        shutil.copy(ROOT / "SConstruct", directory)
    write_demo(directory / version, version)
    who = {"DEBFULLNAME": "Livepatch Team", "DEBEMAIL": "livepatch@team.invalid"}
    command = [
        sys.executable, "-m", "SCons", "-Q", f"-j{jobs}", f"kernel={kernel.name}",
        f"livepatches={version}", "livepatch=demo", "packages=deb,rpm,meta-deb",
        "SOURCE_DATE_EPOCH=1700000000", "dist",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **who},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name, dist = f"livepatch-demo-{kernel.release}", directory / "build" / kernel.name / "dist"
    (meta,) = dist.glob(f"*+{version}_amd64.deb")
    return Built(
        dist / f"{name}_{version}_amd64.deb",
        meta,
        dist / f"{name}.spec",
        dist / f"{name}-{version}.tar.gz",
        dist / f"{name}-{version}-1.x86_64.rpm",
    )


def test_two_builds_give_the_same_bytes(packages: Packages, tmp_path: Path) -> None:
    elsewhere = build_dist(tmp_path / "another" / "checkout", packages.kernel, "2", jobs=2)
    for one, other in zip(astuple(packages.second), astuple(elsewhere), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_lintian_finds_nothing(packages: Packages) -> None:
    command = ["lintian", "--allow-root", "--tag-display-limit", "0", *packages.debs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_rpmlint_finds_nothing(packages: Packages) -> None:
    config = Path(__file__).with_name("rpmlint.toml")
    command = ["rpmlint", "--config", str(config), *packages.rpms, packages.second.spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "0 errors, 0 warnings" in done.stdout, done.stdout
    assert done.returncode == 0


@pytest.fixture(scope="session")
def guest(debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> DebianGuest:
    """A Debian that has the kernel and no package of a livepatch."""
    disk = tmp_path_factory.mktemp("guest") / "disk"
    make_disk(debian_kernel, disk)
    return DebianGuest(disk)


def told(ran: list[Ran]) -> list[tuple[int, str]]:
    return [(each.status, each.output) for each in ran]


def installing(path: str) -> str:
    """The last thing that is said when a package is installed."""
    return f"dpkg -i /test/{path} 2>/dev/null | tail -n 1"


def holding(version: str, command: str) -> str:
    """Run a command while a task sleeps in the livepatch; it fails as the command does."""
    hold = f"/sys/module/livepatch_demo_{version}/parameters/hold"
    return (
        f"echo 1 >{hold}; cat /proc/version >/dev/null & sleep 1\n"
        f"{command}; status=$?; echo 0 >{hold}; exit $status"
    )


def check_stalled(output: str, version: str) -> None:
    """A task that sleeps in the livepatch is named, with its stack."""
    name = f"livepatch_demo_{version}"
    first, task, *stack = output.splitlines()
    assert first == f"livepatch: error: the transition from {name} has not ended after 2 s"
    assert re.fullmatch(r"  task \d+ \(cat\)", task)
    assert any(" livepatch_version_proc_show+" in line and f"[{name}]" in line for line in stack)


def test_a_compressed_module_of_a_backported_kernel(
    guest: DebianGuest, newest_kernel: Kernel, tmp_path: Path
) -> None:
    """Its release has a ``+``, which a unit's name cannot have."""
    deb = build_dist(tmp_path / "checkout", newest_kernel, "1", jobs=2).deb
    name = f"livepatch-demo-{newest_kernel.release}"
    unit = name.replace("+", "-") + ".service"
    installed, files, removed = guest.boot(
        newest_kernel,
        f"dpkg -i --force-depends /test/{deb.name} 2>/dev/null | tail -n 1; cat /proc/version",
        f"systemctl is-enabled {unit}; ls /lib/modules/*/updates/livepatch /usr/share/livepatch/*",
        f"dpkg -P {name} >/dev/null 2>&1; cut -c -13 /proc/version; lsmod | grep -c livepatch",
        files=(deb,),
    )
    assert told([installed]) == [(0, "livepatch_demo_1: enabled\nLinux with livepatch demo 1\n")]
    words = files.output.split()
    assert words[0] == "enabled"
    # Compressed as that kernel's own modules are.
    compressed = "CONFIG_MODULE_COMPRESS_XZ=y" in newest_kernel.config.read_text()
    assert f"livepatch-demo-1.ko{'.xz' if compressed else ''}" in words
    assert "livepatch-demo-1.provenance.json" in words
    assert told([removed]) == [(1, "Linux version\n0\n")]


def test_the_life_of_a_package(
    packages: Packages, guest: DebianGuest, newest_kernel: Kernel
) -> None:
    release, unit = packages.kernel.release, f"{packages.name}.service"
    program = f"/usr/libexec/{packages.name}/livepatch"
    old, new = (path.name for path in packages.debs)
    numbered = packages.kernel.package_version.replace("-", ".") + "+1"
    meta, followed = packages.first.meta, f"livepatch-demo-{flavour_of(release)}"
    old_rpm, new_rpm = (f"/test/{path.name}" for path in packages.rpms)
    see = "cut -c -27 /proc/version; lsmod | grep -o '^livepatch[^ ]*'; true"
    unpatched = f"Linux version {release[:13]}\n"
    patched = "Linux with livepatch demo {0}\nlivepatch_demo_{0}\n".format

    first = guest.boot(
        packages.kernel,
        f"rpm -i --nodeps {old_rpm} 2>&1 | tail -n 1; {see}",
        f"rpm -U --nodeps {new_rpm} 2>&1 | tail -n 1; {see}",
        f"systemctl is-enabled {unit}; rpm -e {packages.name} 2>&1 | tail -n 1; {see}",
        f"dpkg -i /test/{meta.name} >/dev/null 2>&1; dpkg --audit | grep -c {followed}",
        f"{installing(old)}; {see}",
        f"dpkg --configure {followed} | tail -n 1",
        f"systemctl is-enabled {unit}; systemctl is-active {unit}; {program} status",
        f"dpkg -r {packages.name} 2>&1 | grep -c 'depends on {packages.name}'; {see}",
        f"dpkg -P {followed} | tail -n 1",
        files=(packages.debs[0], meta, *packages.rpms),
    )
    assert told(first) == [
        (0, "livepatch_demo_1: enabled\n" + patched(1)),
        (0, "livepatch_demo_2: enabled\n" + patched(2)),
        (0, "enabled\nlivepatch_demo_2: disabled and unloaded\n" + unpatched),
        (0, "1\n"),
        (0, "livepatch_demo_1: enabled\n" + patched(1)),
        (0, f"Setting up {followed} ({numbered}) ...\n"),
        (0, "enabled\nactive\nlivepatch_demo_1: enabled\n  vmlinux: version_proc_show,1\n"),
        (0, "1\n" + patched(1)),
        (0, f"Purging configuration files for {followed} ({numbered}) ...\n"),
    ]

    booted, unload, upgrade, removal, later, purge, again = guest.boot(
        packages.kernel,
        see,
        holding("1", f"{program} unload --timeout 2 livepatch-demo-1"),
        f"{program} load livepatch-demo-1 >/dev/null; {installing(new)}; {see}",
        holding("2", f"LIVEPATCH_TIMEOUT=2 dpkg -r {packages.name} 2>&1 >/dev/null"),
        f"until [ ! -e /sys/kernel/livepatch/livepatch_demo_2 ]; do sleep 1; done; {see}",
        f"{installing(new)}; dpkg -P {packages.name} | tail -n 1; {see}\n"
        "find /etc /lib /usr/libexec /usr/share -name '*livepatch-demo*'",
        installing(old),
        files=packages.debs,
    )
    assert told([booted]) == [(0, patched(1))]
    assert unload.status == 3
    check_stalled(unload.output, "1")
    assert told([upgrade]) == [(0, "livepatch_demo_2: enabled\n" + patched(2))]
    assert removal.status == 0
    check_stalled(removal.output, "2")
    assert removal.output.splitlines()[-1] == (
        "livepatch_demo_2: not unloaded; the kernel keeps it until the next boot"
    )
    assert told([later]) == [(0, unpatched + "livepatch_demo_2\n")]
    removed = f"Purging configuration files for {packages.name} (2) ...\n"
    assert told([purge]) == [(0, "livepatch_demo_2: enabled\n" + removed + unpatched)]
    assert told([again]) == [(0, "livepatch_demo_1: enabled\n")]

    switched_off = guest.boot(
        packages.kernel,
        f"{see}; systemctl is-active {unit}",
        f"{installing(new)}; {see}",
        files=packages.debs,
        parameters="livepatch.enable=0",
    )
    off = "livepatch_demo_2: not loaded, since the kernel command line says livepatch.enable=0\n"
    assert told(switched_off) == [(3, unpatched + "inactive\n"), (0, off + unpatched)]

    elsewhere = guest.boot(
        newest_kernel,
        f"systemctl is-active {unit}",
        f"{installing(old)}; lsmod | grep -c livepatch",
        f"dpkg -P {packages.name} | tail -n 1",
        files=packages.debs,
    )
    other = (
        f"livepatch_demo_1: not loaded, since it is for Linux {release}"
        f" ({packages.kernel.package_version}) and {newest_kernel.release} runs\n"
    )
    removed = f"Purging configuration files for {packages.name} (1) ...\n"
    assert told(elsewhere) == [(3, "inactive\n"), (1, other + "0\n"), (0, removed)]
