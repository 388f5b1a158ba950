"""The metapackages: names that follow the newest livepatch of a flavour."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.contents import Package, package_name
from klpbuild.package.deb import build_deb
from klpbuild.package.meta import build_meta_deb, build_meta_rpm, flavour_of
from klpbuild.package.rpm import build_rpm, write_spec
from tests.package.demo import RELEASE, demo_package
from tests.package.test_rpm import needs_rpmbuild

NEXT = "6.1.0-50-cloud-amd64"
NAME = "livepatch-demo-6.1-cloud-amd64"
KERNELS = {"47": "6.1.170-3", "50": "6.1.176-1", "53": "6.1.180-1"}


def demo(module: Path, version: str, release: str = RELEASE, kernel: str = "6.1.170-3") -> Package:
    package = demo_package(module, release=release, kernel_version=kernel)
    return replace(package, livepatch=replace(package.livepatch, version=version))


@pytest.mark.parametrize(
    ("release", "flavour"),
    [
        ("6.1.0-47-cloud-amd64", "6.1-cloud-amd64"),
        ("6.12.117+deb12-cloud-amd64", "6.12-cloud-amd64"),
        ("7.3-rc1-amd64", "7.3-amd64"),
        ("5.15.0-100-generic", "5.15-generic"),
        ("5.14.0-427.13.1.el9_4.x86_64", "5.14-x86_64"),
        ("6.5.6-300.fc39.x86_64+debug", "6.5-x86_64+debug"),
        ("5.14.21-150500.55.7-default", "5.14-default"),
        ("6.1.0", "6.1"),
        ("next", ""),
    ],
)
def test_what_changes_from_one_build_to_the_next(release: str, flavour: str) -> None:
    assert flavour_of(release) == flavour


def test_for_dpkg(module: Path, tmp_path: Path) -> None:
    deb = build_meta_deb(demo(module, "2"), tmp_path / "dist")
    assert deb == tmp_path / "dist" / f"{NAME}_6.1.170.3+2_amd64.deb"
    field = ["dpkg-deb", "--field", deb]
    text = subprocess.run(field, capture_output=True, text=True, check=True).stdout
    assert text == (
        f"Package: {NAME}\n"
        "Version: 6.1.170.3+2\n"
        "Architecture: amd64\n"
        "Maintainer: Livepatch Team <livepatch@team.invalid>\n"
        "Installed-Size: 3\n"
        f"Depends: livepatch-demo-{RELEASE} (>= 2)\n"
        "Section: metapackages\n"
        "Priority: optional\n"
        "Description: newest livepatch demo for Linux 6.1-cloud-amd64 (metapackage)\n"
        " This package depends on the newest livepatch of its name for the newest kernel\n"
        " 6.1-cloud-amd64, and so on that kernel. Upgrades bring the livepatch of the\n"
        " next kernel together with it.\n"
    )
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "root"], check=True)
    log = tmp_path / "root/usr/share/doc" / NAME / "changelog.gz"
    assert gzip.decompress(log.read_bytes()).decode() == (
        f"{NAME} (6.1.170.3+2) unstable; urgency=medium\n\n"
        f"  * Depends on livepatch-demo-{RELEASE} 2.\n\n"
        " -- Livepatch Team <livepatch@team.invalid>  Tue, 14 Nov 2023 22:13:20 +0000\n"
    )
    assert build_meta_deb(demo(module, "2"), tmp_path).read_bytes() == deb.read_bytes()


@pytest.mark.parametrize("tool", ["lintian", "rpmlint"])
def test_linters_find_nothing(tool: str, module: Path, tmp_path: Path) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    if tool == "lintian":
        made = build_meta_deb(demo(module, "2"), tmp_path)
        words = ["--allow-root", "--tag-display-limit", "0"]
    else:
        needs_rpmbuild()
        made = build_meta_rpm(demo(module, "2"), tmp_path)
        words = ["--config", str(Path(__file__).with_name("rpmlint.toml"))]
    done = subprocess.run([tool, *words, made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not done.stdout or "0 errors, 0 warnings" in done.stdout, done.stdout


def test_a_release_without_a_version(module: Path, tmp_path: Path) -> None:
    with pytest.raises(KlpError) as error:
        build_meta_deb(demo(module, "2", release="next"), tmp_path)
    assert str(error.value) == (
        "release 'next' is of no flavour that a metapackage could follow\n"
        "  A release begins with the kernel's version, and a build's own number or its\n"
        "  flavour comes behind, as in 6.1.0-47-cloud-amd64."
    )


class Apt:
    """A machine as apt sees it: what is installed, and one repository."""

    def __init__(self, directory: Path) -> None:
        self.repository, self.status = directory / "repository", directory / "status"
        self.repository.mkdir()
        for name in ("lists", "cache", "etc"):
            (directory / name).mkdir()
        (directory / "etc/sources").write_text(f"deb [trusted=yes] file:{self.repository} ./\n")
        settings = {
            "Dir::State": directory, "Dir::State::lists": directory / "lists",
            "Dir::State::status": self.status, "Dir::Cache": directory / "cache",
            "Dir::Etc": directory / "etc", "Dir::Etc::sourcelist": directory / "etc/sources",
            "Dir::Etc::sourceparts": "-", "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",
        }  # fmt: skip
        self.options = [word for key in settings for word in ("-o", f"{key}={settings[key]}")]

    def offers(self) -> None:
        """Read the repository, which also has the kernels."""
        entries = [kernel(number, version) for number, version in KERNELS.items()]
        for deb in sorted(self.repository.glob("*.deb")):
            place = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
            entries.append(place + self.run("dpkg-deb", "--field", str(deb)))
        (self.repository / "Packages").write_text("\n".join(entries))
        self.run("apt-get", *self.options, "update")

    def removes(self, *options: str) -> list[str]:
        """What nobody needs any more."""
        said = self.run("apt-get", *self.options, *options, "--simulate", "autoremove")
        return sorted(line.split()[1] for line in said.splitlines() if line.startswith("Remv "))

    def would(self, *words: str) -> list[str]:
        """What would be installed, as ``name version``."""
        said = self.run("apt-get", *self.options, "--simulate", *words)
        rows = [line.split() for line in said.splitlines() if line.startswith("Inst ")]
        return sorted(f"{row[1]} {next(w for w in row if w[0] == '(')[1:]}" for row in rows)

    def has(self, *debs: Path, kernels: tuple[str, ...] = ("47",)) -> None:
        """Tell apt what is installed; all but kmod and the metapackage came for others."""
        entries = [package("kmod", "1"), *(kernel(n, KERNELS[n]) for n in kernels)]
        entries += [self.run("dpkg-deb", "--field", str(deb)) for deb in debs]
        names = [entry.split("\n", 1)[0] for entry in entries[1:] if f": {NAME}\n" not in entry]
        automatic = "Architecture: amd64\nAuto-Installed: 1\n"
        (self.status.parent / "extended_states").write_text(
            "\n".join(f"{name}\n{automatic}" for name in names)
        )
        installed = "Status: install ok installed\n"
        self.status.write_text(
            "\n".join(entry.replace("\n", f"\n{installed}", 1) for entry in entries)
        )

    @staticmethod
    def run(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def package(name: str, version: str) -> str:
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: A <a@b.invalid>\n"
        f"Filename: ./{name}.deb\nSize: 1\nDescription: {name}\n"
    )


def kernel(number: str, version: str) -> str:
    return package(f"linux-image-6.1.0-{number}-cloud-amd64", version)


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")
def test_apt_follows(module: Path, tmp_path: Path) -> None:
    apt = Apt(tmp_path)
    old, new = (f"livepatch-demo-{release}" for release in (RELEASE, NEXT))

    def offered(*described: Package) -> list[Path]:
        makers = (build_deb, build_meta_deb)
        debs = [make(each, apt.repository) for each in described for make in makers]
        apt.offers()
        return debs

    apt.has()
    first = offered(demo(module, "1"))
    assert apt.would("install", NAME) == [f"{NAME} 6.1.170.3+1", f"{old} 1"]
    apt.has(*first)
    # A new version for the same kernel.
    offered(demo(module, "2"))
    assert apt.would("upgrade") == [f"{NAME} 6.1.170.3+2", f"{old} 2"]
    # The next kernel has it from its first version on, and comes with it.
    offered(demo(module, "1", NEXT, "6.1.176-1"))
    assert apt.would("dist-upgrade") == [
        f"linux-image-{NEXT} 6.1.176-1",
        f"{NAME} 6.1.176.1+1",
        f"{old} 2",
        f"{new} 1",
    ]
    # What is built for the older kernel after that changes nothing of it.
    offered(demo(module, "10"))
    assert f"{NAME} 6.1.176.1+1" in apt.would("dist-upgrade")
    assert f"{old} 10" in apt.would("dist-upgrade")


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")
def test_the_livepatch_of_a_running_kernel_is_kept(module: Path, tmp_path: Path) -> None:
    """Whoever removed it would unload it."""
    apt = Apt(tmp_path)
    old, new = demo(module, "2"), demo(module, "1", NEXT, "6.1.176-1")
    meta = build_meta_deb(new, tmp_path)
    debs = build_deb(old, tmp_path), build_deb(new, tmp_path), meta
    name = f"livepatch-demo-{RELEASE}"
    apt.has(*debs, kernels=("47", "50"))
    assert apt.removes() == [name]  # without what the metapackage brings
    subprocess.run(["dpkg-deb", "-x", meta, tmp_path / "root"], check=True)
    setting = tmp_path / "root/etc/apt/apt.conf.d" / f"{NAME}.conf"
    assert apt.removes("-c", str(setting)) == []
    # Apt keeps the two newest kernels, and the one that runs; a livepatch goes with its kernel.
    apt.has(*debs, kernels=("47", "50", "53"))
    assert apt.removes("-c", str(setting)) == [f"linux-image-{RELEASE}", name]


def test_rpm_needs_the_livepatch(module: Path, tmp_path: Path) -> None:
    needs_rpmbuild()
    described = demo(module, "2")
    write_spec(described, tmp_path)
    livepatch, made = build_rpm(described, tmp_path), build_meta_rpm(described, tmp_path)
    assert made.name == f"{NAME}-6.1.170.3-2.x86_64.rpm"
    again = build_meta_rpm(described, tmp_path / "again")
    assert made.read_bytes() == again.read_bytes()
    install = ["rpm", "--root", str(tmp_path / "root"), "--install", "--test", str(made)]
    (tmp_path / "root").mkdir()
    alone = subprocess.run(install, capture_output=True, text=True, check=False)
    wanted = f"livepatch-demo-{RELEASE} >= 2 is needed by {NAME}-6.1.170.3-2.x86_64"
    assert wanted in alone.stderr and alone.returncode
    # Together only what the livepatch itself needs is missing.
    both = subprocess.run([*install, livepatch], capture_output=True, text=True, check=False)
    assert NAME not in both.stderr.replace(str(tmp_path), "")
    assert f"kernel-{RELEASE} is needed by livepatch-demo-{RELEASE}-2-1.x86_64" in both.stderr
    older = subprocess.run(
        [*install, build_meta_rpm(demo(module, "10", NEXT, "6.1.176-1"), tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"livepatch-demo-{NEXT} >= 10 is needed by" in older.stderr


RHEL = "5.14.0-427.13.1.el9_4.x86_64"


def stub(directory: Path, name: str, version: str, *provides: str) -> None:
    """Make an rpm without files."""
    spec = directory / f"{name}-{version}.spec"
    text = (
        f"Name: {name}\nVersion: {version.partition('-')[0]}\nSummary: a stub\nLicense: GPL-2.0\n"
    )
    text += f"Release: {version.partition('-')[2]}\n" + "".join(
        f"Provides: {p}\n" for p in provides
    )
    spec.write_text(text + "%description\nA stub.\n%files\n")
    words = ["rpmbuild", "-bb", "--define", f"_topdir {directory}/made", str(spec)]
    subprocess.run(words, capture_output=True, check=True)
    for made in (directory / "made/RPMS").rglob("*.rpm"):
        made.rename(directory / made.name)


class Dnf:
    """A machine as dnf sees it: an empty root, and one repository with two kernels of RHEL 9."""

    def __init__(self, directory: Path) -> None:
        self.root, self.repository = directory / "root", directory / "repository"
        self.repository.mkdir()
        stub(self.repository, "base", "1-1", "/bin/sh", "kmod", "systemd")
        for version in ("427.13.1", "503.11.1"):
            uname = f"kernel-uname-r = 5.14.0-{version}.el9_4.x86_64"
            stub(self.repository, "kernel-core", f"5.14.0-{version}.el9_4", uname)
        local = f"[local]\nname=local\nbaseurl=file://{self.repository}\ngpgcheck=0\n"
        places = "".join(f"{each}dir={directory}/{each}\n" for each in ("cache", "log", "persist"))
        self.settings = directory / "dnf.conf"
        self.settings.write_text(f"[main]\nplugins=0\nreposdir=/nonexistent\n{places}{local}")

    def run(self, *words: str, status: int = 0) -> str:
        """Run dnf; the scripts of packages would want a running system."""
        repository = ["createrepo_c", "--quiet", str(self.repository)]
        subprocess.run(repository, capture_output=True, check=True)
        machine = ["-c", str(self.settings), f"--installroot={self.root}", "--releasever=9"]
        options = ["--setopt=tsflags=noscripts", "--refresh", "--assumeyes"]
        done = subprocess.run(
            ["dnf", *machine, *options, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def installed(self) -> set[str]:
        words = ["rpm", "--root", str(self.root), "-qa", "--qf", "%{name} %{version}\n"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return {line for line in done.stdout.splitlines() if not line.startswith("base ")}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("createrepo_c"), reason="needs createrepo-c")
@pytest.mark.skipif(not shutil.which("dnf"), reason="needs dnf")
def test_dnf_follows(module: Path, tmp_path: Path) -> None:
    dnf = Dnf(tmp_path)
    of_kernel = package_name(RHEL)
    name, meta = f"livepatch-demo-{of_kernel}", "livepatch-demo-5.14-x86-64"

    def offered(*described: Package) -> None:
        for each in described:
            write_spec(each, dnf.repository)
            build_rpm(each, dnf.repository)
            build_meta_rpm(each, dnf.repository)

    first = demo(module, "1", RHEL, "")
    offered(first)
    dnf.run("install", meta)  # brings the livepatch, and the very kernel that it is for
    kernel = "kernel-core 5.14.0"
    before = dnf.installed()
    assert {f"{name} 1", kernel} < before and len(before) == 3
    offered(demo(module, "2", RHEL, ""))
    dnf.run("upgrade", meta)
    assert f"{name} 2" in dnf.installed()
    # Another livepatch for the kernel takes the place of the first, when that is wanted.
    livepatch = replace(first.livepatch, name="other")
    offered(replace(first, livepatch=livepatch))
    said = dnf.run("install", f"livepatch-other-{of_kernel}", status=1)
    assert (
        f"livepatch-other-{of_kernel}-1-1.x86_64 conflicts with livepatch-{of_kernel} provided by"
        in said
    )
    dnf.run("install", "--allowerasing", f"livepatch-other-{of_kernel}")
    assert {each for each in dnf.installed() if "livepatch" in each} == {
        f"livepatch-other-{of_kernel} 1"
    }
    dnf.run("remove", "kernel-core")
    assert dnf.installed() == set()
