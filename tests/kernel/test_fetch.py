"""Fetching kernels from an apt that offers small real packages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from klpbuild import cli
from klpbuild.distro.apt import Apt
from klpbuild.distro.debian import offered_releases
from klpbuild.distro.parts import Part
from klpbuild.errors import KlpError
from klpbuild.kernel import cache
from klpbuild.kernel.cache import cached_kernel, cached_kernels
from klpbuild.kernel.fetch import fetch
from klpbuild.kernel.locate import locate
from klpbuild.kernel.source import source_tree
from tests.kernel.machines import Machine

RELEASE = "6.1.0-47-cloud-amd64"
VERSION = "6.1.170-3"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine.make(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{machine.programs}:{os.environ['PATH']}")
    monkeypatch.setattr("klpbuild.distro.apt.native_architecture", lambda: "amd64")
    # The compiler of these kernels, whatever this machine has.
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: True)
    return machine


@pytest.fixture
def debian(machine: Machine) -> Machine:
    machine.offer_kernel(RELEASE, VERSION, kbuild=f" (>= {VERSION})")
    for version in ("6.1.192-2", "6.1.176-1", "6.1.100-1"):
        machine.offer_kbuild(version)
    return machine


def files_left(directory: Path) -> list[str]:
    """What stands in the cache but lock files."""
    return sorted(p.name for p in directory.rglob("*") if not p.name.endswith(".lock"))


def test_a_fetched_kernel_builds_modules_where_it_stands(debian: Machine, tmp_path: Path) -> None:
    lines: list[str] = []
    cached = fetch(RELEASE, report=lines.append)
    kernel = locate(RELEASE)

    assert (kernel.release, kernel.version, kernel.package_version) == (
        RELEASE,
        (6, 1, 170),
        VERSION,
    )
    assert [path.name for path in kernel.modules] == ["tun.ko", "ext4.ko"]
    assert kernel.image and kernel.image.read_text() == "image"
    assert kernel.system_map is None, "Debian's stub is no System.map"
    assert kernel.vmlinux is None and kernel.debug_modules is None
    output = subprocess.run(
        ["make", "-C", kernel.build, f"M={tmp_path}", "modules"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"symvers=Module.symvers {cached.root}/usr/src/linux-headers-6.1.0-47-common" in output
    assert (
        "linux-kbuild-6.1 6.1.170-3 is not offered; 6.1.176-1 is the lowest that "
        + (f"linux-headers-{RELEASE} allows")
        in lines
    )
    assert [(p.part, p.version) for p in cached.packages] == [
        (Part.IMAGE, VERSION),
        (Part.HEADERS, VERSION),
        (Part.COMMON, VERSION),
        (Part.KBUILD, "6.1.176-1"),
    ]
    assert files_left(cache.cache_directory() / "kernels").count("packages.json") == 1


def test_kbuild_of_the_images_own_version_is_taken_when_offered(debian: Machine) -> None:
    debian.offer_kbuild(VERSION)
    lines: list[str] = []
    kbuild = fetch(RELEASE, report=lines.append).package(Part.KBUILD)
    assert kbuild and kbuild.version == VERSION
    assert not [line for line in lines if "lowest" in line]


def test_a_second_fetch_gets_only_what_is_missing(debian: Machine) -> None:
    first = fetch(RELEASE)
    debian.pool.joinpath("calls").unlink()
    assert fetch(RELEASE) == first
    assert debian.calls == [], "nothing is missing, so apt is not asked"

    second = fetch(RELEASE, debug_symbols=True)
    downloads = [call for call in debian.calls if "download" in call]
    assert [call.split()[-1] for call in downloads] == [f"linux-image-{RELEASE}-dbg={VERSION}"]
    assert second.packages[:4] == first.packages
    kernel = locate(RELEASE)
    assert kernel.vmlinux and kernel.vmlinux.read_text() == "vmlinux"
    assert kernel.system_map and kernel.system_map.read_text().endswith("_stext\n")
    assert kernel.debug_modules and (kernel.debug_modules / "kernel/fs/ext4/ext4.ko").is_file()
    assert kernel.modules[1].read_text() == "module", "the shipped one, which the kernel loads"


def test_the_unsigned_image_is_taken_where_there_are_both(debian: Machine) -> None:
    debian.offer(f"linux-image-{RELEASE}", VERSION, {f"boot/vmlinuz-{RELEASE}": "signed"})
    image = fetch(RELEASE).package(Part.IMAGE)
    assert image and image.name == f"linux-image-{RELEASE}-unsigned"


def test_the_signed_image_is_taken_where_there_is_no_other(machine: Machine) -> None:
    machine.offer_kernel(RELEASE, VERSION, unsigned=False)
    machine.offer_kbuild(VERSION)
    image = fetch(RELEASE).package(Part.IMAGE)
    assert image and image.name == f"linux-image-{RELEASE}"


def test_the_default_is_the_newest_cloud_kernel_with_headers(debian: Machine) -> None:
    newest = "6.1.0-56-cloud-amd64"
    debian.offer_kernel(newest, "6.1.192-2")
    debian.offer_kernel("6.1.0-57-amd64", "6.1.193-1")
    debian.offer("linux-image-6.1.0-99-cloud-amd64", "6.1.999-1", {})
    debian.offer("linux-image-6.12-cloud-amd64", "6.12.117-1", {})
    debian.offer("linux-headers-6.12-cloud-amd64", "6.12.117-1", {})
    assert offered_releases(Apt()) == ("6.1.0-57-amd64", newest, RELEASE)
    assert fetch().release == newest


def test_an_unknown_release_lists_the_offered_ones_newest_first(debian: Machine) -> None:
    debian.offer_kernel("6.1.0-56-cloud-amd64", "6.1.192-2")
    for unknown in ("6.1.0-1-cloud-amd64", "../../etc"):
        with pytest.raises(KlpError) as caught:
            fetch(unknown)
        assert str(caught.value) == (
            f"apt offers no kernel {unknown} with its headers\n"
            "  Name one of these releases:\n"
            "  6.1.0-56-cloud-amd64\n"
            f"  {RELEASE}"
        )
    assert cached_kernels() == ()


def test_empty_package_lists_say_what_to_do(machine: Machine) -> None:
    with pytest.raises(KlpError) as caught:
        fetch()
    assert str(caught.value) == (
        "apt offers no kernel package\n"
        "  Its package lists are empty or name no kernel of Debian.\n"
        "  Run `apt-get update` as root and look into /etc/apt/sources.list*, then try again."
    )


def test_a_machine_without_apt_is_told_of_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value) == (
        "apt-cache is not on this machine\n"
        "  Kernels are fetched as Debian packages, with apt-get and dpkg-deb.\n"
        "  Name a kernel by the path of its headers or build tree instead:\n"
        "  kernel=/lib/modules/RELEASE/build"
    )


def test_a_failed_download_leaves_no_kernel(debian: Machine) -> None:
    headers = next(o for o in debian.offers if o["Package"] == f"linux-headers-{RELEASE}")
    headers["fake-failure"] = "E: Failed to fetch it  404  Not Found"
    debian.settle()
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value).splitlines()[:2] == [
        f"linux-headers-{RELEASE} {VERSION} could not be downloaded",
        "  E: Failed to fetch it  404  Not Found",
    ]
    assert cached_kernel(RELEASE) is None
    assert files_left(cache.cache_directory() / "kernels") == []


@pytest.mark.parametrize(
    "said, hint",
    [
        (
            "Could not connect to mirror:80 (192.0.2.1). - connect (111: Connection refused)",
            "The mirror does not answer: look at the network, and at apt's proxy.",
        ),
        (
            "Temporary failure resolving 'mirror'",
            "The mirror does not answer: look at the network, and at apt's proxy.",
        ),
        (
            "404  Not Found [IP: 192.0.2.1 80]",
            "The package is gone from the mirror: apt's lists are old.  Run `apt-get update` as "
            "root and look into /etc/apt/sources.list*, then try again.",
        ),
        (
            "Hash Sum mismatch",
            "Look at the network, the disk and apt's proxy (Acquire::http::Proxy).",
        ),
    ],
)
def test_why_a_download_failed(debian: Machine, said: str, hint: str) -> None:
    headers = next(o for o in debian.offers if o["Package"] == f"linux-headers-{RELEASE}")
    headers["fake-failure"] = f"E: Failed to fetch http://mirror/x.deb  {said}"
    debian.settle()
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value).splitlines()[2:] == [f"  {hint}"]


def test_a_download_tells_how_much_has_arrived(debian: Machine) -> None:
    image = next(o for o in debian.offers if o["Package"].startswith("linux-image-"))
    image["fake-seconds"] = 0.5
    debian.settle()
    lines: list[str] = []
    told: list[tuple[int, int]] = []
    fetch(RELEASE, report=lines.append, progress=lambda done, total: told.append((done, total)))
    assert told and all(0 <= done <= total for done, total in told)
    assert any(" MB to download, " in line for line in lines)


def test_a_failed_addition_leaves_the_kernel_as_it_was(debian: Machine) -> None:
    before = fetch(RELEASE)
    debug = next(o for o in debian.offers if o["Package"] == f"linux-image-{RELEASE}-dbg")
    debug["SHA256"] = "0" * 64
    debian.settle()
    with pytest.raises(KlpError, match=f"linux-image-{RELEASE}-dbg {VERSION} arrived damaged"):
        fetch(RELEASE, debug_symbols=True)
    assert cached_kernel(RELEASE) == before
    assert locate(RELEASE).vmlinux is None


def test_a_broken_package_is_told(debian: Machine) -> None:
    image = next(o for o in debian.offers if "unsigned" in str(o["Package"]))
    package = debian.pool / str(image["Filename"])
    package.write_bytes(package.read_bytes()[:500])
    image["SHA256"] = hashlib.sha256(package.read_bytes()).hexdigest()
    debian.settle()
    with pytest.raises(KlpError, match=rf"{package.name} could not be unpacked"):
        fetch(RELEASE)
    assert cached_kernel(RELEASE) is None


def test_a_full_disk_is_told_before_the_download(debian: Machine) -> None:
    debian.offers[0]["Installed-Size"] = str(10**12)
    debian.settle()
    with pytest.raises(KlpError, match=r"the packages need 1024000000 MB, and \d+ MB are free"):
        fetch(RELEASE)
    assert not [call for call in debian.calls if "download" in call]


def test_debug_symbols_of_another_version_are_refused(debian: Machine) -> None:
    cached = fetch(RELEASE)
    debian.offers = [o for o in debian.offers if not str(o["Package"]).endswith("-dbg")]
    debian.offer(f"linux-image-{RELEASE}-dbg", "6.1.170-4", {})
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE, debug_symbols=True)
    assert str(caught.value) == (
        f"apt does not offer linux-image-{RELEASE}-dbg {VERSION}\n"
        "  It must be of exactly the image's version.  Offered: 6.1.170-4.\n"
        "  Run `apt-get update` as root and try again.\n"
        f"  If apt has a newer image of this release, remove {cached.path} to fetch it anew."
    )


def test_kbuild_that_the_headers_refuse_is_not_taken(machine: Machine) -> None:
    machine.offer_kernel(RELEASE, VERSION, kbuild=f" (>= {VERSION})")
    machine.offer_kbuild("6.1.100-1")
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value).splitlines()[:2] == [
        f"apt does not offer linux-kbuild-6.1 as linux-headers-{RELEASE} needs it",
        f"  Needed: >= {VERSION}.  Offered: 6.1.100-1.",
    ]


def test_two_processes_that_fetch_at_once_make_one_kernel(debian: Machine) -> None:
    debian.offers[0]["fake-seconds"] = 0.5
    debian.settle()
    command = [sys.executable, "-m", "klpbuild.cli", "kernel", "fetch", RELEASE]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    waited = [text for text in said if "klpbuild: waiting for process " in text]
    # Who fetched may then wait for the other one, which links the tree.
    assert waited and all(f"(cli.py kernel fetch {RELEASE}): " in text for text in waited), said
    assert sum("download" in call for call in debian.calls) == 4


@pytest.mark.hardening
def test_a_killed_fetch_leaves_nothing_that_looks_complete(debian: Machine) -> None:
    last = next(o for o in debian.offers if o["Version"] == "6.1.176-1")
    last["fake-seconds"] = 10
    debian.settle()
    command = [sys.executable, "-m", "klpbuild.cli", "kernel", "fetch", RELEASE]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (debian.calls and debian.calls[-1].endswith("linux-kbuild-6.1=6.1.176-1")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert cached_kernel(RELEASE) is None and cached_kernels() == ()

    del last["fake-seconds"]
    debian.settle()
    fetch(RELEASE)
    assert [p.name for p in cache.cache_directory().glob("kernels/.*making*")] == []


def test_a_kernel_that_was_moved_to_another_disk(debian: Machine) -> None:
    """With a symbolic link in its place: what is added cannot be renamed from one to the other."""
    kernel = fetch(RELEASE)
    with TemporaryDirectory(dir="/dev/shm") as name:
        shutil.copytree(kernel.path, Path(name, "kernel"), symlinks=True)
        shutil.rmtree(kernel.path)
        kernel.path.symlink_to(Path(name, "kernel"))
        assert Path(name).stat().st_dev != kernel.path.parent.stat().st_dev
        added = fetch(RELEASE, debug_symbols=True)
        assert added.package(Part.DEBUG) and kernel.path.is_symlink()
        assert [path.name for path in kernel.path.iterdir() if "making" in path.name] == []


def test_the_source_is_unpacked_once_when_it_is_asked_for(debian: Machine, tmp_path: Path) -> None:
    fetch(RELEASE)
    with pytest.raises(KlpError) as caught:
        source_tree(locate(RELEASE))
    assert str(caught.value) == (
        f"the source of {RELEASE} is not at hand\n  Run `klpbuild kernel fetch {RELEASE} --source`."
    )

    main = tmp_path / "linux-source-6.1" / "init" / "main.c"
    main.parent.mkdir(parents=True)
    main.write_text("int main;\n")
    archive = tmp_path / "usr/src/linux-source-6.1.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(main.parents[1], "linux-source-6.1")
    offer = debian.offer("linux-source-6.1", "6.1.192-1", {})
    offer = debian.offer("linux-source-6.1", VERSION, {})
    _add_file(debian, offer, archive, "usr/src/linux-source-6.1.tar.xz")
    fetch(RELEASE, source=True)
    assert locate(RELEASE).source is None, "not yet unpacked"
    tree = source_tree(locate(RELEASE))
    assert (tree / "init/main.c").read_text() == "int main;\n"
    assert locate(RELEASE).source == tree == source_tree(locate(RELEASE))


def _add_file(machine: Machine, offer: dict[str, object], file: Path, path: str) -> None:
    package = machine.pool / str(offer["Filename"])
    tree = machine.pool / "again"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    (tree / path).parent.mkdir(parents=True)
    (tree / path).write_bytes(file.read_bytes())
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, package], check=True, capture_output=True)
    offer["SHA256"] = hashlib.sha256(package.read_bytes()).hexdigest()
    machine.settle()


def test_list_shows_what_is_there(debian: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernel", "list"]) == 0
    directory = cache.cache_directory()
    assert capsys.readouterr().out == (
        f"No kernel is fetched in {directory}; `klpbuild kernel fetch` gets one.\n"
    )
    debian.offer_kernel("6.1.0-56-cloud-amd64", "6.1.192-2")
    cli.main(["kernel", "fetch", RELEASE])
    cli.main(["kernel", "fetch", "--debug-symbols"])
    capsys.readouterr()
    assert cli.main(["kernel", "list"]) == 0
    head, newest, oldest = capsys.readouterr().out.splitlines()
    assert head.split() == ["release", "version", "has", "size", "path"]
    assert newest.split()[:6] == [
        *("6.1.0-56-cloud-amd64", "6.1.192-2", "image,", "headers,", "debug", "symbols"),
    ]
    assert oldest.split()[:4] == [RELEASE, VERSION, "image,", "headers"]
    assert oldest.split()[-1] == str(directory / "kernels" / RELEASE)

    assert cli.main(["kernel", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["release"] for row in rows] == ["6.1.0-56-cloud-amd64", RELEASE]
    assert rows[1]["has"] == ["image", "headers"]
    assert rows[1]["size"] > 0 and len(rows[1]["packages"][0]["sha256"]) == 64


def test_the_command_prints_the_error_and_fails(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["kernel", "fetch"]) == 1
    assert capsys.readouterr().err.startswith("klpbuild: error: apt offers no kernel package\n")


def test_installed_but_not_offered_packages_do_not_count(machine: Machine) -> None:
    offer = machine.offer(f"linux-image-{RELEASE}", VERSION, {})
    del offer["Filename"]
    machine.offer(f"linux-headers-{RELEASE}", VERSION, {})
    machine.settle()
    with pytest.raises(KlpError, match="apt offers no kernel package"):
        fetch(RELEASE)


def test_a_release_of_another_suite_is_found(debian: Machine) -> None:
    debian.offer_elsewhere("trixie-backports")
    lines: list[str] = []
    assert fetch(RELEASE, report=lines.append).version == VERSION
    assert lines[:2] == [
        f"apt's own sources do not offer {RELEASE}",
        "reading the lists of all suites from http://mirror/debian/",
    ]
    directory = cache.cache_directory() / "apt" / "all"
    assert " sid main" in (directory / "sources.list").read_text()
    assert f'Dir::State "{directory}";' in (directory / "apt.conf").read_text()

    debian.pool.joinpath("calls").unlink()
    fetch(RELEASE, debug_symbols=True)
    assert "apt-get -q update" not in debian.calls, "the lists are fresh"


def test_a_suite_that_is_named_is_looked_in_alone(debian: Machine) -> None:
    debian.offer_elsewhere("trixie-backports")
    lines: list[str] = []
    fetch(RELEASE, suites=["trixie-backports"], report=lines.append)
    assert lines[0] == "reading the lists of trixie-backports from http://mirror/debian/"
    sources = cache.cache_directory() / "apt" / "trixie-backports" / "sources.list"
    assert sources.read_text().splitlines()[0].endswith("/debian/ trixie-backports main")
    assert len(sources.read_text().splitlines()) == 1
    with pytest.raises(KlpError, match=r"suite '\.\./x' cannot be read"):
        fetch(RELEASE, suites=["../x"])


def test_an_unknown_release_lists_the_near_ones_and_their_suites(debian: Machine) -> None:
    debian.offer_kernel("6.1.0-56-cloud-amd64", "6.1.192-2")
    debian.offer_elsewhere("trixie")
    with pytest.raises(KlpError) as caught:
        fetch("6.1.0-46-cloud-amd64")
    assert str(caught.value) == (
        "apt offers no kernel 6.1.0-46-cloud-amd64 with its headers\n"
        "  Name one of these releases:\n"
        f"  {RELEASE}  trixie\n"
        "  6.1.0-56-cloud-amd64  trixie"
    )


def test_an_empty_image_brings_what_it_depends_on(machine: Machine) -> None:
    machine.offer_split_kernel(RELEASE, VERSION)
    machine.offer_kbuild(VERSION)
    cached = fetch(RELEASE)
    assert [(p.part, p.name) for p in cached.packages][:3] == [
        (Part.IMAGE, f"linux-binary-unsigned-{RELEASE}"),
        (Part.MODULES, f"linux-modules-{RELEASE}"),
        (Part.BASE, f"linux-base-{RELEASE}"),
    ]
    kernel = locate(RELEASE)
    assert kernel.image and kernel.image.read_text() == "unsigned"
    assert [path.name for path in kernel.modules] == ["tun.ko", "ext4.ko"]
    assert kernel.system_map is None, "a stub is no System.map"


def test_half_a_kernel_is_an_error(machine: Machine) -> None:
    machine.offer_split_kernel(RELEASE, VERSION, modules=False)
    machine.offer_kbuild(VERSION)
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value) == (
        f"the packages of {RELEASE} bring no modules\n"
        f"  Fetched: linux-binary-unsigned-{RELEASE} {VERSION}, linux-modules-{RELEASE} {VERSION}, "
        f"linux-base-{RELEASE} {VERSION}, linux-headers-{RELEASE} {VERSION}, "
        f"linux-headers-6.1.0-47-common {VERSION}, linux-kbuild-6.1 {VERSION}.\n"
        "  Its distribution packages kernels in a way that this klpbuild does not know."
    )
    assert cached_kernel(RELEASE) is None


def test_the_compiler_comes_with_the_kernel_where_the_machine_has_another(
    debian: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: False)
    said = "#!/bin/sh\necho 'x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0'\n"
    files = {
        "usr/bin/x86_64-linux-gnu-gcc-12": said,
        "usr/bin/x86_64-linux-gnu-as": "as",
        "usr/lib64/ld-linux-x86-64.so.2": "linker",
        "usr/lib/x86_64-linux-gnu/libc.so.6": "library",
    }
    debian.offer("gcc-12", "12.2.0-14+deb12u1", files)
    debian.offer_elsewhere("bookworm")
    lines: list[str] = []
    cached = fetch(RELEASE, report=lines.append)
    assert "gcc-12 12.2.0-14+deb12u1 of bookworm, with what it needs" in lines
    tools = cache.cache_directory() / "tools/gcc-12_12.2.0-14+deb12u1/root"
    assert cached.tools == tools
    assert (tools / "usr/x86_64-linux-gnu/bin/as").read_text() == "as"
    assert locate(RELEASE).toolchain.cc == str(tools / "usr/bin/x86_64-linux-gnu-gcc-12")

    debian.pool.joinpath("calls").unlink()
    fetch(RELEASE)
    assert debian.calls == []


def test_the_compiler_is_looked_for_in_every_suite(
    debian: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backports has kernels that a compiler of another suite built."""
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: False)
    files = {
        "usr/lib64/ld-linux-x86-64.so.2": "linker",
        "usr/lib/x86_64-linux-gnu/libc.so.6": "library",
    }
    debian.offer("gcc-12", "12.2.0-14+deb12u1", files)
    debian.offer_elsewhere("trixie-backports")
    lines: list[str] = []
    fetch(RELEASE, suites=["trixie-backports"], report=lines.append)
    assert "reading the lists of all suites from http://mirror/debian/" in lines


def test_a_compiler_of_another_version_is_not_taken(
    debian: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: False)
    debian.offer("gcc-12", "12.4.0-1", {})
    debian.offer_elsewhere("trixie")
    with pytest.raises(KlpError) as caught:
        fetch(RELEASE)
    assert str(caught.value) == (
        "apt offers no gcc-12 12.2.0-14+deb12u1\n"
        "  The kernel was built by it, and another version may make other code.  "
        "Offered: 12.4.0-1 (trixie).\n"
        "  Install gcc-12 12.2.0 from elsewhere, and name it with CC=."
    )
