"""Kernels from packages that the user downloaded: small real ones of each kind."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.distro import archives
from klpbuild.errors import KlpError
from klpbuild.kernel.added import add, added_kernel
from klpbuild.kernel.cache import kernel_directory
from klpbuild.kernel.lacking import lacking_parts
from klpbuild.kernel.locate import locate
from klpbuild.kernel.source import source_tree
from tests.kernel.machines import (
    COMMON_MAKEFILE,
    CONFIG,
    VERSION_H,
    Machine,
    headers_files,
    image_files,
    write,
)
from tests.kernel.test_locate import compile_vmlinux

FEDORA = "6.11.4-301.fc41.x86_64"
UBUNTU = "6.8.0-31-generic"
SUSE = "6.4.0-150600.23.7-default"
ARCH = "6.12.1-arch1-1"
DEBIAN = "6.1.0-47-cloud-amd64"


def headers(release: str, tree: str) -> dict[str, str]:
    """A headers tree that needs no other."""
    return {
        f"{tree}/Makefile": COMMON_MAKEFILE,
        f"{tree}/.config": CONFIG,
        f"{tree}/Module.symvers": "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
        f"{tree}/include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        f"{tree}/include/generated/uapi/linux/version.h": VERSION_H,
    }


def links_of(release: str, target: str) -> dict[str, str]:
    return {f"lib/modules/{release}/build": target}


def tree_of(directory: Path, files: dict[str, str], links: dict[str, str]) -> Path:
    for path, text in files.items():
        write(directory / path, text)
    for path, target in links.items():
        link = directory / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return directory


def rpm(
    folder: Path, name: str, files: dict[str, str], links: dict[str, str] | None = None
) -> None:
    """Make a package with rpmbuild."""
    if not shutil.which("rpmbuild"):
        pytest.skip("no rpmbuild")
    top = folder.parent / f"rpmbuild-{name}"
    tree = tree_of(top / "tree", files, links or {})
    spec = write(
        top / "one.spec",
        f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: test\nLicense: GPL\nBuildArch: noarch\n"
        f"AutoReqProv: no\n%description\ntest\n%install\ncp -a {tree}/. %{{buildroot}}\n"
        "%files\n/*\n%define __os_install_post %{nil}\n%define _build_id_links none\n",
    )
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["rpmbuild", "-bb", f"-D_topdir {top}", f"-D_rpmdir {top}/out", spec],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = (top / "out").rglob("*.rpm")
    shutil.copy(made, folder)


def deb(
    folder: Path,
    name: str,
    files: dict[str, str],
    links: dict[str, str] | None = None,
    *,
    compression: str = "xz",
    suffix: str = "deb",
) -> None:
    """Make a package with dpkg-deb."""
    tree = tree_of(folder.parent / f"deb-{name}", files, links or {})
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\n"
    write(tree / "DEBIAN/control", f"{control}Maintainer: none\nDescription: test\n")
    folder.mkdir(exist_ok=True)
    made = folder / f"{name}_1_all.{suffix}"
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "-b", tree, made]
    subprocess.run(command, check=True, capture_output=True)


def pacman(
    folder: Path, name: str, files: dict[str, str], links: dict[str, str] | None = None
) -> None:
    """Make a package as makepkg does."""
    tree = tree_of(folder.parent / f"pkg-{name}", {**files, ".PKGINFO": "pkgname"}, links or {})
    folder.mkdir(exist_ok=True)
    plain = folder.parent / f"{name}.tar"
    with tarfile.open(plain, "w") as archive:
        for path in sorted(tree.iterdir()):
            archive.add(path, path.name)
    made = folder / f"{name}-1-x86_64.pkg.tar.zst"
    subprocess.run(["zstd", "-q", plain, "-o", made], check=True)


def modules(release: str, directory: str = "lib/modules") -> dict[str, str]:
    return {f"{directory}/{release}/kernel/fs/ext4/ext4.ko": "module"}


def test_fedoras_packages(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    image = {f"lib/modules/{FEDORA}/vmlinuz": "image"}
    link = links_of(FEDORA, f"/usr/src/kernels/{FEDORA}")
    rpm(folder, "kernel-core", image | modules(FEDORA), link)
    rpm(folder, "kernel-devel", headers(FEDORA, f"usr/src/kernels/{FEDORA}"))
    lines: list[str] = []
    added = add("f41", folder, lines.append)
    kernel = locate("f41")

    assert lines == ["[1/2] kernel-core-1-1.noarch.rpm", "[2/2] kernel-devel-1-1.noarch.rpm"]
    assert (kernel.name, kernel.release, kernel.version) == ("f41", FEDORA, (6, 1, 170))
    assert kernel.image == added.root / f"lib/modules/{FEDORA}/vmlinuz"
    assert [path.name for path in kernel.modules] == ["ext4.ko"]
    assert kernel.build == added.root / f"usr/src/kernels/{FEDORA}"
    link_there = added.root / f"lib/modules/{FEDORA}/build"
    assert link_there.resolve() == kernel.build, "an absolute link means the place in the packages"
    assert [p.file for p in added.packages] == [line.split()[1] for line in lines]


def test_what_a_set_of_packages_lacks_is_said_with_what_works_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "packages"
    rpm(folder, "kernel-core", {f"lib/modules/{FEDORA}/vmlinuz": "image"} | modules(FEDORA))
    rpm(folder, "kernel-devel", headers(FEDORA, f"usr/src/kernels/{FEDORA}"))
    assert main(["kernel", "add", "f41", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"f41 ({FEDORA}): 1 modules, in {kernel_directory('f41')}",
        "no debug symbols: patches are not built; hand-written livepatches are",
        f"  Put kernel-debuginfo-{FEDORA} into {folder} and run `klpbuild kernel add f41 {folder}` "
        "again.",
        "no source: patches are not built; hand-written livepatches are",
        "  No package of files has it: unpack the source package and name it with --source "
        "(scons: KSRC=).",
    ]
    assert main(["kernel", "list"]) == 0
    assert "f41" in capsys.readouterr().out
    assert main(["kernel", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["release"], row["has"]) == ("f41", FEDORA, ["image", "headers"])
    with pytest.raises(KlpError) as caught:
        source_tree(locate("f41"))
    assert str(caught.value) == (
        f"the source of {FEDORA} is not at hand\n"
        "  No package of files has it: unpack the source package and name it with --source "
        "(scons: KSRC=)."
    )


def test_ubuntus_packages_with_debug_symbols_and_source(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    common, tree = "usr/src/linux-headers-6.8.0-31", f"usr/src/linux-headers-{UBUNTU}"
    files = headers(UBUNTU, tree)
    del files[f"{tree}/Makefile"]
    deb(
        folder,
        "linux-headers-6.8.0-31-generic",
        files,
        {f"{tree}/Makefile": "../linux-headers-6.8.0-31/Makefile"},
        compression="zstd",
    )
    deb(folder, "linux-headers-6.8.0-31", {f"{common}/Makefile": COMMON_MAKEFILE})
    deb(folder, "linux-image-unsigned", {f"boot/vmlinuz-{UBUNTU}": "image"}, compression="zstd")
    deb(folder, "linux-modules", modules(UBUNTU), compression="gzip")
    debug = {f"usr/lib/debug/boot/vmlinux-{UBUNTU}": "vmlinux"}
    debug |= modules(UBUNTU, "usr/lib/debug/lib/modules")
    deb(folder, "linux-image-unsigned-dbgsym", debug, suffix="ddeb", compression="none")
    source = write(tmp_path / "linux-source-6.8.0/init/main.c", "int main;").parents[1]
    archive = tmp_path / "source.tar.bz2"
    with tarfile.open(archive, "w:bz2") as packed:
        packed.add(source, "linux-source-6.8.0")
    place = tmp_path / "deb-linux-source/usr/src/linux-source-6.8.0/linux-source-6.8.0.tar.bz2"
    place.parent.mkdir(parents=True)
    shutil.copy(archive, place)
    deb(folder, "linux-source", {})

    added = add("noble", folder)
    kernel = locate("noble")
    assert kernel.release == UBUNTU
    assert kernel.vmlinux == added.root / f"usr/lib/debug/boot/vmlinux-{UBUNTU}"
    assert kernel.debug_modules == added.root / f"usr/lib/debug/lib/modules/{UBUNTU}"
    assert (source_tree(kernel) / "init/main.c").read_text() == "int main;"
    assert lacking_parts(kernel) == ()


def test_packages_of_the_kernels_own_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """bindeb-pkg puts the configuration beside the image, and none into the headers."""
    release = "6.12.117-own"
    tree = f"usr/src/linux-headers-{release}"
    files = headers(release, tree)
    config = files.pop(f"{tree}/.config")
    link = links_of(release, f"/{tree}")
    folder = tmp_path / "packages"
    deb(folder, f"linux-headers-{release}", files, link)
    with pytest.raises(KlpError) as caught:
        add("own", folder)
    assert str(caught.value) == (
        f"{folder}: no package has the configuration of {release}\n"
        "  It is .config in the headers, or in /boot or beside the modules.\n"
        f"  Add linux-image-{release}."
    )
    image = {f"boot/config-{release}": config, f"boot/vmlinuz-{release}": "image"}
    deb(folder, f"linux-image-{release}", image | modules(release))
    assert main(["kernel", "add", "own", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[2::2] == [
        f"  Put linux-image-{release}-dbg (made with CONFIG_DEBUG_INFO) into {folder} and run "
        f"`klpbuild kernel add own {folder}` again.",
        "  No package of files has it: unpack the source package and name it with --source "
        "(scons: KSRC=).",
    ]
    kernel = locate("own")
    assert kernel.config == kernel_directory("own") / f"root/boot/config-{release}"
    assert (kernel.build, kernel.release) == (kernel_directory("own") / "root" / tree, release)


def test_headers_that_need_a_package_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    tree = f"usr/src/linux-headers-{UBUNTU}"
    files = headers(UBUNTU, tree)
    del files[f"{tree}/Makefile"]
    link = {f"{tree}/Makefile": "../linux-headers-6.8.0-31/Makefile"}
    deb(folder, "linux-headers-generic", files | modules(UBUNTU), link)
    with pytest.raises(KlpError) as caught:
        add("noble", folder)
    assert str(caught.value) == (
        f"{folder}: the headers need linux-headers-6.8.0-31, which no package has\n"
        f"  {tree}/Makefile is a link to ../linux-headers-6.8.0-31/Makefile.\n"
        "  Add the package linux-headers-6.8.0-31."
    )
    assert added_kernel("noble") is None and not kernel_directory("noble").exists()


def test_suses_packages_with_the_source_as_files(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    tree = "usr/src/linux-6.4.0-150600.23.7-obj/x86_64/default"
    rpm(folder, "kernel-default-devel", headers(SUSE, tree))
    image = {f"usr/lib/modules/{SUSE}/vmlinuz": "image"} | modules(SUSE, "usr/lib/modules")
    link = {f"usr/lib/modules/{SUSE}/build": f"/{tree}"}
    rpm(folder, "kernel-default", image, link)
    source = "usr/src/linux-6.4.0-150600.23.7"
    rpm(folder, "kernel-source", {f"{source}/init/main.c": "", f"{source}/Kconfig": ""})
    debug = {f"usr/lib/debug/usr/lib/modules/{SUSE}/vmlinux.debug": "vmlinux"}
    rpm(folder, "kernel-default-debuginfo", debug)
    added = add("sle15", folder)
    kernel = locate("sle15")
    assert kernel.source == (added.root / source).resolve()
    assert kernel.vmlinux and kernel.vmlinux.name == "vmlinux.debug"
    assert lacking_parts(kernel) == ()


def test_archs_packages_have_vmlinux_in_the_headers(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    directory = f"usr/lib/modules/{ARCH}"
    image = {f"{directory}/vmlinuz": "image"} | modules(ARCH, "usr/lib/modules")
    pacman(folder, "linux", image)
    compile_vmlinux(tmp_path / "pkg-linux-headers" / directory / "build/vmlinux")
    pacman(folder, "linux-headers", headers(ARCH, f"{directory}/build"))
    added = add("arch", folder)
    kernel = locate("arch")
    assert kernel.release == ARCH
    assert kernel.vmlinux == added.root / directory / "build/vmlinux"
    assert kernel.image and len(kernel.modules) == 1
    assert not (added.root / ".PKGINFO").exists()
    # The same for the headers of an Arch system, where they stand.
    named = locate(str(added.root / directory / "build"))
    assert named.image == kernel.image and named.modules == kernel.modules


def test_debians_packages_and_another_set_under_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packages"
    common = "linux-headers-6.1.0-47-common"
    deb(folder, "linux-image", image_files(DEBIAN))
    deb(folder, "linux-headers", headers_files(DEBIAN, common))
    with pytest.raises(KlpError) as caught:
        add("bookworm", folder)
    assert f"the headers need {common}, which no package has" in str(caught.value)
    deb(folder, "common", {f"usr/src/{common}/Makefile": COMMON_MAKEFILE})
    add("bookworm", folder)
    kernel = locate("bookworm")
    output = subprocess.run(
        ["make", "-C", kernel.build, f"M={tmp_path}", "modules"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"/bookworm/root/usr/src/{common}" in output
    write(kernel.cache / "kallsyms", "learned")
    debug = {f"usr/lib/debug/boot/vmlinux-{DEBIAN}": "vmlinux"}
    deb(folder, "linux-image-dbg", debug)
    add("bookworm", folder)
    assert locate("bookworm").vmlinux
    assert not (kernel.cache / "kallsyms").exists(), "nothing that was learned outlives it"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("../up", "'../up' cannot be a kernel's name\n"),
        ("", "'' cannot be a kernel's name\n"),
        ("a" * 65, f"'{'a' * 65}' cannot be a kernel's name\n"),
        ("fixtures", "'fixtures' cannot be a kernel's name\n"),
        ("a b", "'a b' cannot be a kernel's name\n"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(KlpError) as caught:
        add(name, tmp_path)
    assert str(caught.value).startswith(text)


def test_folders_without_a_whole_kernel(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(KlpError) as caught:
            add("one", folder)
        assert added_kernel("one") is None
        return str(caught.value)

    assert refused(tmp_path / "none") == f"{tmp_path}/none: there is no such folder"
    empty = tmp_path / "empty"
    empty.mkdir()
    write(empty / "readme.txt", "text")
    assert refused(empty) == (
        f"{empty}: holds no packages\n"
        "  They are called *.deb, *.ddeb, *.rpm, *.pkg.tar.zst, *.pkg.tar.xz."
    )
    folder = tmp_path / "packages"
    deb(folder, "linux-modules-6.8.0-31-generic", modules(UBUNTU))
    assert refused(folder) == (
        f"{folder}: no package has a kernel's headers\n"
        "  There are linux-modules-6.8.0-31-generic_1_all.deb.\n"
        f"  Add linux-headers-{UBUNTU} and linux-headers-6.8.0-31."
    )
    deb(folder, "linux-headers", headers(FEDORA, f"usr/src/kernels/{FEDORA}"))
    assert refused(folder) == (
        f"{folder}: no package has the modules of {FEDORA}\n"
        f"  There are those of {UBUNTU}.\n"
        f"  Add kernel-modules-core-{FEDORA} (or kernel-core) and kernel-modules-{FEDORA}."
    )
    deb(folder, "linux-headers-2", headers(UBUNTU, f"usr/src/linux-headers-{UBUNTU}"))
    assert refused(folder) == (
        f"{folder}: the packages are of several kernels: {FEDORA}, {UBUNTU}\n"
        "  Put those of one kernel into a folder of their own."
    )
    write(folder / "broken.rpm", b"\xed\xab\xee\xdb" + bytes(200))
    assert f"{'broken.rpm'}: cannot be unpacked\n" in refused(folder)


def test_a_kernel_that_cannot_load_livepatches_is_said_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    files = headers(FEDORA, f"usr/src/kernels/{FEDORA}") | modules(FEDORA)
    config = f"usr/src/kernels/{FEDORA}/.config"
    files[config] = files[config].replace("CONFIG_LIVEPATCH=y", "# CONFIG_LIVEPATCH is not set")
    deb(folder, "kernel", files)
    with pytest.raises(KlpError) as caught:
        add("one", folder)
    assert str(caught.value) == (
        f"{folder}: CONFIG_LIVEPATCH is not set: this kernel cannot load livepatches\n"
        "  Use a kernel that was built with CONFIG_LIVEPATCH=y."
    )
    assert added_kernel("one") is None


def test_fetched_and_added_kernels_keep_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from klpbuild.kernel.fetch import fetch

    machine = Machine.make(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{machine.programs}:{os.environ['PATH']}")
    monkeypatch.setattr("klpbuild.distro.apt.native_architecture", lambda: "amd64")
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: True)
    machine.offer_kernel(DEBIAN, "6.1.170-3")
    machine.offer_kbuild("6.1.170-3")
    folder = tmp_path / "packages"
    deb(folder, "kernel", headers(FEDORA, f"usr/src/kernels/{FEDORA}") | modules(FEDORA))
    add(DEBIAN, folder)
    with pytest.raises(KlpError) as caught:
        fetch(DEBIAN)
    assert str(caught.value) == (
        f"{kernel_directory(DEBIAN)}: a kernel called {DEBIAN} was added from {folder}\n"
        "  Remove this directory to fetch Debian's."
    )
    shutil.rmtree(kernel_directory(DEBIAN))
    fetch(DEBIAN)
    with pytest.raises(KlpError) as caught:
        add(DEBIAN, folder)
    assert str(caught.value) == (
        f"{kernel_directory(DEBIAN)}: a kernel called {DEBIAN} was fetched, and stands in the "
        "cache\n  Choose another name."
    )


# --- hostile packages ---


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o6777
    return info


def hostile(folder: Path, *members: tarfile.TarInfo) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for each in members:
            data = b"evil" if each.isreg() else b""
            each.size = len(data)
            archive.addfile(each, io.BytesIO(data))
    package = folder / "x.pkg.tar.zst"
    subprocess.run(["zstd", "-qf", folder / "x.tar", "-o", package], check=True)
    return package


SYM, LNK = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../escaped")], "would write outside of its directory: ../escaped"),
        ([member("usr/../../escaped")], "would write outside of its directory: usr/../../escaped"),
        ([member("/TOP/escaped")], "would write outside of its directory: /TOP/escaped"),
        (
            [member("way", SYM, ".."), member("way/escaped")],
            "would write through a link: way/escaped",
        ),
        (
            [member("way", SYM, "/TOP"), member("way/escaped")],
            "would write through a link: way/escaped",
        ),
        (
            [member("a/way", SYM, "../.."), member("a/way/b/escaped")],
            "would write through a link: a/way/b/escaped",
        ),
        (
            [member("way", SYM, ".."), member("way", tarfile.DIRTYPE), member("way/escaped")],
            "would write through a link: way/escaped",
        ),
        (
            [member("file", LNK, "../secret")],
            "would write outside of its directory: ../secret",
        ),
        (
            [member("way", SYM, "/TOP/secret"), member("file", LNK, "way")],
            "cannot be unpacked\n  file is a link to way, no file of it.",
        ),
        (
            [member("dev", tarfile.CHRTYPE)],
            "cannot be unpacked\n  dev is neither a file, a directory nor a link.",
        ),
        (
            [member("pipe", tarfile.FIFOTYPE)],
            "cannot be unpacked\n  pipe is neither a file, a directory nor a link.",
        ),
    ],
)
def test_no_member_leaves_the_directory(
    tmp_path: Path, members: list[tarfile.TarInfo], said: str
) -> None:
    write(tmp_path / "secret", "secret")
    for each in members:
        each.name = each.name.replace("TOP", str(tmp_path).lstrip("/"))
        each.linkname = each.linkname.replace("TOP", str(tmp_path).lstrip("/"))
    package = hostile(tmp_path / "packages", *members)
    root = tmp_path / "deep/root"
    root.mkdir(parents=True)
    with pytest.raises(KlpError) as caught:
        archives.unpack(package, root)
    said = said.replace("TOP", str(tmp_path).lstrip("/"))
    assert str(caught.value).startswith(f"x.pkg.tar.zst: {said}")
    assert not list(tmp_path.rglob("escaped"))
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_file_in_the_place_of_a_link_replaces_the_link(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "secret")
    package = hostile(tmp_path / "p", member("file", SYM, "../secret"), member("file"))
    root = tmp_path / "root"
    root.mkdir()
    archives.unpack(package, root)
    assert secret.read_text() == "secret"
    assert (root / "file").read_text() == "evil"
    assert (root / "file").stat().st_mode & 0o7777 == 0o755, "no special permissions"


@pytest.mark.parametrize(
    "links",
    [
        {"way": "../secret"},
        {"a/b/c/way": "../../../../secret"},
        {"a/b/deep": "/", "way": "a/b/deep/../secret"},
    ],
)
def test_links_that_lead_out_are_refused(tmp_path: Path, links: dict[str, str]) -> None:
    write(tmp_path / "secret", "secret")
    members = [member(name, SYM, target) for name, target in links.items()]
    root = tmp_path / "root"
    root.mkdir()
    archives.unpack(hostile(tmp_path / "p", *members), root)
    name, target = list(links.items())[-1]
    with pytest.raises(KlpError) as caught:
        archives.check_links(root)
    assert str(caught.value) == (
        f"the packages have links that lead out of them: {name}\n  It means {target}."
    )


def test_a_package_that_would_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = hostile(tmp_path / "p", member("file"))
    root = tmp_path / "root"
    root.mkdir()
    usage = shutil.disk_usage(tmp_path)._replace(free=(256 << 20) + 3)
    monkeypatch.setattr("klpbuild.distro.archives.shutil.disk_usage", lambda path: usage)
    with pytest.raises(KlpError) as caught:
        archives.unpack(package, root)
    assert str(caught.value) == (
        f"x.pkg.tar.zst: does not fit on the disk\n  Its files would fill that of {root}.\n"
        "  Set KLPBUILD_CACHE to a directory on a larger disk."
    )
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["x.deb", "x.rpm", "x.pkg.tar.zst", "x.pkg.tar.xz", "x.ddeb"])
@pytest.mark.parametrize("data", [b"", b"garbage" * 100, b"!<arch>\n" + b"data.tar" * 20])
def test_broken_packages(tmp_path: Path, name: str, data: bytes) -> None:
    package = write(tmp_path / name, data)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(KlpError, match="cannot be unpacked") as caught:
        archives.unpack(package, root)
    assert str(caught.value).startswith(f"{name}: cannot be unpacked\n  ")


def test_a_package_that_ends_early(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    deb(folder, "one", {"usr/file": "text" * 5000}, compression="gzip")
    package = folder / "one_1_all.deb"
    package.write_bytes(package.read_bytes()[:-40])
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(KlpError, match="cannot be unpacked"):
        archives.unpack(package, root)


def test_programs_that_packages_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = []
    for name in ("x.rpm", "x.pkg.tar.zst"):
        with pytest.raises(KlpError) as caught:
            archives.unpack(write(tmp_path / name, b"x"), tmp_path)
        said.append(str(caught.value))
    assert said == [
        "x.rpm: needs rpm2archive or bsdtar to be unpacked, and neither is on this machine\n"
        "  Install the package rpm, or libarchive-tools (bsdtar).",
        "x.pkg.tar.zst: is compressed with zstd, which is not on this machine\n"
        "  Install the package zstd.",
    ]
