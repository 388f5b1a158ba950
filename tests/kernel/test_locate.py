from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.installed import Installed
from klpbuild.kernel.locate import locate
from klpbuild.kernel.modules import debug_files
from tests.kernel.machines import (
    COMMON_MAKEFILE,
    CONFIG,
    headers_files,
    image_files,
    prepared_tree,
    write,
)

RELEASE = "6.1.0-47-cloud-amd64"
COMMON = "linux-headers-6.1.0-47-common"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system that Debian's packages were unpacked into."""
    root = tmp_path / "root"
    for path, text in (headers_files(RELEASE, COMMON) | image_files(RELEASE)).items():
        write(root / path, text)
    write(root / f"usr/src/{COMMON}/Makefile", COMMON_MAKEFILE)
    link = root / "lib/modules" / RELEASE / "build"
    link.symlink_to(f"/usr/src/linux-headers-{RELEASE}")
    return root


def compile_vmlinux(path: Path, source: str = "int start_kernel(void) { return 0; }") -> Path:
    write(path.with_suffix(".c"), source)
    subprocess.run(["gcc", "-c", path.with_suffix(".c"), "-o", path], check=True)
    return path


@pytest.mark.parametrize(
    "named", ["lib/modules/R", "lib/modules/R/build", "usr/src/linux-headers-R"]
)
def test_an_unpacked_root_is_its_own_system(root: Path, named: str, tmp_path: Path) -> None:
    kernel = locate(str(root / named.replace("R", RELEASE)))
    assert (kernel.name, kernel.release, kernel.version) == (RELEASE, RELEASE, (6, 1, 170))
    assert kernel.arch.name == "x86_64"
    assert kernel.image == root / "boot" / f"vmlinuz-{RELEASE}"
    assert kernel.system_map is None and kernel.vmlinux is None
    assert [path.name for path in kernel.modules] == ["tun.ko", "ext4.ko"]
    assert root not in kernel.build.parents, "nothing is written into the system"
    output = subprocess.run(
        ["make", "-C", kernel.build, f"M={tmp_path}", "modules"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"{root}/usr/src/{COMMON}" in output


def test_an_installed_kernel_is_found_by_its_release(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KlpError, match="is not known"):
        locate(RELEASE)
    monkeypatch.setattr("klpbuild.kernel.locate.MODULES", root / "lib/modules")
    assert locate(RELEASE).image == root / "boot" / f"vmlinuz-{RELEASE}"


def test_what_is_learned_of_a_named_tree_can_be_kept_elsewhere(
    root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    kernel = locate(str(root / "lib/modules" / RELEASE), learned=tmp_path / "learned")
    assert kernel.cache.parent == tmp_path / "learned"
    assert kernel.build.parent == kernel.cache
    assert list(cache_dir.iterdir()) == []
    tree = prepared_tree(tmp_path / "linux", "6.1.170-custom")
    assert locate(str(tree), learned=tmp_path / "learned").cache.parent == tmp_path / "learned"


def test_debug_files_of_the_system_are_found(root: Path) -> None:
    debug = root / "usr/lib/debug"
    write(debug / "boot" / f"vmlinux-{RELEASE}", "vmlinux")
    real = write(debug / "boot" / f"System.map-{RELEASE}", "ffffffff81000000 T _stext\n")
    write(debug / "lib/modules" / RELEASE / "kernel/fs/ext4/ext4.ko", "debug")
    kernel = locate(str(root / "lib/modules" / RELEASE / "build"))
    assert kernel.vmlinux == debug / "boot" / f"vmlinux-{RELEASE}"
    assert kernel.system_map == real
    assert kernel.debug_modules == debug / "lib/modules" / RELEASE


def test_a_real_system_map_in_boot_is_taken(root: Path) -> None:
    write(root / "boot" / f"System.map-{RELEASE}", "ffffffff81000000 T _stext\n")
    kernel = locate(str(root / "lib/modules" / RELEASE))
    assert kernel.system_map == root / "boot" / f"System.map-{RELEASE}"


def test_missing_common_headers_are_named(root: Path) -> None:
    shutil.rmtree(root / "usr/src" / COMMON)
    headers = root / f"usr/src/linux-headers-{RELEASE}"
    with pytest.raises(KlpError) as caught:
        locate(str(headers))
    assert str(caught.value) == (
        f"{headers}: the headers need {COMMON}, which is missing\n"
        f"  Their Makefile includes {root}/usr/src/{COMMON}/Makefile.\n"
        f"  Install the package {COMMON}, or use `klpbuild kernel fetch`."
    )


def test_compressed_modules_are_decompressed_outside_of_the_system(root: Path) -> None:
    directory = root / "lib/modules" / RELEASE
    module = directory / "kernel/fs/ext4/ext4.ko"
    module.unlink()
    write(module.with_name("ext4.ko.xz"), lzma.compress(b"ext4"))
    write(module.with_name("jbd2.ko.gz"), gzip.compress(b"jbd2"))
    kernel = locate(str(directory))
    assert {path.name: path.read_bytes() for path in kernel.modules} == {
        "ext4.ko": b"ext4",
        "jbd2.ko": b"jbd2",
        "tun.ko": b"module",
    }
    assert kernel.modules == locate(str(directory)).modules
    assert not module.exists()


def packed_modules(root: Path) -> Path:
    directory = root / "lib/modules" / RELEASE
    for name in ("ext4", "jbd2"):
        (directory / f"kernel/fs/ext4/{name}.ko").unlink(missing_ok=True)
        write(directory / f"kernel/fs/ext4/{name}.ko.xz", lzma.compress(name.encode()))
    write(directory / "extra/vendor.ko.xz", lzma.compress(b"vendor"))
    return directory


@pytest.mark.parametrize("name", ["ext4.ko", "vendor.ko"])
@pytest.mark.parametrize("damage", [b"", b"exT4", b"vendoR", None])
def test_a_damaged_decompressed_module_is_made_again(
    root: Path, name: str, damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Positions of symbols are counted in it."""
    directory = packed_modules(root)
    clean = {path: path.read_bytes() for path in locate(str(directory)).modules}
    path = next(path for path in clean if path.name == name)
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert {each: each.read_bytes() for each in locate(str(directory)).modules} == clean
    said = capsys.readouterr().err
    assert said == "" if damage is None else said.startswith(f"klpbuild: note: {path}: is ")


def test_a_copied_cache_keeps_its_modules(
    root: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = packed_modules(root)
    (path, *_) = (path for path in locate(str(directory)).modules if path.name == "ext4.ko")
    os.utime(path, (1, 1))
    locate(str(directory))
    assert path.stat().st_mtime == 1 and capsys.readouterr().err == ""


def test_modules_beside_the_kernel_s_own(root: Path) -> None:
    directory = root / "lib/modules" / RELEASE
    write(directory / "updates/dkms/nvidia.ko", "nvidia")
    write(directory / "extra/vendor.ko.xz", lzma.compress(b"vendor"))
    write(directory / "updates/livepatch/livepatch-fix.ko", "livepatch")
    (directory / "source").symlink_to(root / "elsewhere")
    write(root / "elsewhere/not-installed.ko", "other")
    kernel = locate(str(directory))
    assert {path.name: path.read_bytes() for path in kernel.modules} == {
        "ext4.ko": b"module",
        "nvidia.ko": b"nvidia",
        "tun.ko": b"module",
        "vendor.ko": b"vendor",
    }
    write(directory / "extra/vendor.ko.xz", lzma.compress(b"vendor, newer"))
    found = {path.name: path for path in locate(str(directory)).modules}
    assert found["vendor.ko"].read_bytes() == b"vendor, newer"


@pytest.mark.parametrize("depmod", [True, False])
def test_of_two_modules_with_one_name_modprobe_s_counts(root: Path, depmod: bool) -> None:
    directory = root / "lib/modules" / RELEASE
    write(directory / "updates/dkms/tun.ko", "newer")
    write(directory / "extra/ext4.ko", "extra")
    if depmod:
        lines = ["updates/dkms/tun.ko: kernel/lib/x.ko\n", "extra/ext4.ko:\n"]
        write(directory / "modules.dep", "".join(lines))
    found = {path.name: path.read_bytes() for path in locate(str(directory)).modules}
    assert found == {"tun.ko": b"newer", "ext4.ko": b"extra" if depmod else b"module"}


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not on this machine")
def test_zstd_modules_are_decompressed_and_their_damage_is_told(root: Path) -> None:
    module = root / "lib/modules" / RELEASE / "kernel/fs/ext4/ext4.ko"
    subprocess.run(["zstd", "-q", "--rm", module], check=True)
    kernel = locate(str(root / "lib/modules" / RELEASE))
    assert kernel.modules[1].read_bytes() == b"module"


def test_a_broken_compressed_module_leaves_nothing(root: Path, cache_dir: Path) -> None:
    directory = root / "lib/modules" / RELEASE / "kernel"
    broken = write(directory / "net/tls.ko.xz", lzma.compress(b"tls")[:-5])
    with pytest.raises(KlpError) as caught:
        locate(str(directory.parent))
    assert str(caught.value).startswith(f"{broken}: cannot be decompressed\n")
    assert [path for path in cache_dir.rglob("*") if path.name == "modules"] == []


def test_a_build_tree_has_everything_itself(tmp_path: Path) -> None:
    tree = prepared_tree(tmp_path / "linux", "6.1.170-custom")
    compile_vmlinux(tree / "vmlinux")
    write(tree / "System.map", "ffffffff81000000 T _stext\n")
    write(tree / "arch/x86/boot/bzImage", "image")
    write(tree / "init/main.c")
    write(tree / "fs/ext4/ext4.ko")
    write(tree / "fs/jbd2/jbd2.ko")
    write(tree / "fs/old/stale.ko")
    write(tree / "modules.order", "kernel/fs/jbd2/jbd2.ko\nfs/ext4/ext4.o\n")
    kernel = locate(str(tree))
    assert kernel.release == "6.1.170-custom"
    assert kernel.name.startswith("6.1.170-custom-")
    assert kernel.build == kernel.source == tree
    assert kernel.vmlinux == tree / "vmlinux"
    assert kernel.system_map == tree / "System.map"
    assert kernel.image == tree / "arch/x86/boot/bzImage"
    assert [path.name for path in kernel.modules] == ["ext4.ko", "jbd2.ko"]
    assert tree not in kernel.cache.parents


def test_nothing_learned_outlives_a_rebuilt_tree(tmp_path: Path) -> None:
    tree = prepared_tree(tmp_path / "linux", "6.1.170-custom")
    compile_vmlinux(tree / "vmlinux")
    before = locate(str(tree))
    write(before.cache / "kallsyms", "ffffffff81000000 T _stext\n")
    assert locate(str(tree)).kallsyms == before.cache / "kallsyms"
    compile_vmlinux(tree / "vmlinux", "int start_kernel(int x) { return x + 1; }")
    after = locate(str(tree))
    assert after.kallsyms is None
    assert after.name == before.name, "results go to the same directory"


def test_trees_of_one_release_have_different_names(tmp_path: Path) -> None:
    trees = [prepared_tree(tmp_path / name, "6.1.170-custom") for name in ("one", "two")]
    assert len({locate(str(tree)).name for tree in trees}) == 2


def test_the_fixtures_are_built_and_located(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "kernel-fixtures"
    output = tmp_path / "fixtures" / "kernel"
    kernel = locate("fixtures", fixtures=source, output=output)
    assert (kernel.name, kernel.build, kernel.source) == ("fixtures", output, source)
    assert kernel.vmlinux == output / "vmlinux"
    before = kernel.vmlinux.stat().st_mtime_ns
    assert locate("fixtures", fixtures=source, output=output) == kernel
    assert kernel.vmlinux.stat().st_mtime_ns == before, "up to date"


def test_a_vmlinux_without_code_is_none(root: Path) -> None:
    """Debian's 6.12 headers hold a vmlinux of type information only."""
    headers = root / f"usr/src/linux-headers-{RELEASE}"
    whole = compile_vmlinux(root / "whole")
    command = ["objcopy", "-R", ".text", "-R", ".rela.eh_frame", "-R", ".eh_frame"]
    subprocess.run([*command, whole, headers / "vmlinux"], check=True)
    kernel = locate(str(headers))
    assert kernel.vmlinux is None
    assert not (kernel.build / "vmlinux").exists(), "kbuild would ask for pahole"


def test_an_unknown_kernel_names_the_fetched_ones_and_the_command() -> None:
    with pytest.raises(KlpError) as caught:
        locate("6.1.0-48-cloud-amd64")
    assert str(caught.value) == (
        "kernel '6.1.0-48-cloud-amd64' is not known\n"
        "  Fetched kernels: none.\n"
        "  Run `klpbuild kernel fetch 6.1.0-48-cloud-amd64`, or name the path of a headers or "
        "build tree."
    )


def test_a_kernel_s_name_with_a_typo_is_not_one_to_fetch() -> None:
    with pytest.raises(KlpError) as caught:
        locate("fixtrues")
    assert str(caught.value) == (
        "kernel 'fixtrues' is not known\n"
        "  Did you mean fixtures?\n"
        "  Fetched kernels: none.\n"
        "  Run `klpbuild kernel fetch RELEASE` for another one, or name the path of a headers or "
        "build tree."
    )


def test_the_miniature_kernel_where_it_cannot_be() -> None:
    with pytest.raises(KlpError) as caught:
        locate("fixtures")
    assert str(caught.value) == (
        "kernel 'fixtures' cannot be named here\n"
        "  The miniature kernel cannot boot; scons and others build it where they need it.\n"
        "  When it is built, its build tree can be named: build/fixtures/kernel."
    )


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        locate(str(tmp_path / "nothing"))
    assert str(caught.value) == (
        f"{tmp_path}/nothing: there is no such directory\n  Fetched kernels: none."
    )


def test_a_directory_that_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        locate(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: is not a kernel's headers or build tree\n"
        "  Name the directory that `make -C` takes to build modules for the kernel."
    )


def test_all_that_a_tree_lacks_is_told_together(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    write(tree / "Makefile", "all:\n")
    with pytest.raises(KlpError) as caught:
        locate(str(tree))
    assert [(p.where, p.what) for p in caught.value.problems] == [
        (
            str(tree),
            "is not prepared for building modules: include/generated/utsrelease.h is missing",
        ),
        (
            str(tree),
            "is not prepared for building modules: "
            "include/generated/uapi/linux/version.h is missing",
        ),
        (str(tree), "has no Module.symvers"),
        (str(tree / ".config"), "cannot be read: No such file or directory"),
    ]


def test_a_kernel_without_livepatch_is_refused(tmp_path: Path) -> None:
    without = CONFIG.replace("CONFIG_LIVEPATCH=y", "# CONFIG_LIVEPATCH is not set")
    tree = prepared_tree(tmp_path / "linux", "6.1.170", without)
    with pytest.raises(KlpError) as caught:
        locate(str(tree))
    assert str(caught.value) == (
        f"{tree}/.config: CONFIG_LIVEPATCH is not set: this kernel cannot load livepatches\n"
        "  Use a kernel that was built with CONFIG_LIVEPATCH=y."
    )


def test_the_version_is_found_in_older_forms(tmp_path: Path) -> None:
    tree = prepared_tree(tmp_path / "linux", "5.4.99")
    version = tree / "include/generated/uapi/linux/version.h"
    write(version, "#define LINUX_VERSION_CODE 328803\n")
    assert locate(str(tree)).version == (5, 4, 99)
    version.unlink()
    write(tree / "Makefile", "VERSION = 5\nPATCHLEVEL = 4\nSUBLEVEL = 98\n")
    assert locate(str(tree)).version == (5, 4, 98)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "LTO_CLANG",
            "{tree}/.config: CONFIG_LTO_CLANG is set: this kernel is optimised when it is linked\n"
            "  Its objects are bitcode, and functions of one file are inlined into those of others:"
            " what one file becomes cannot be told from that file.\n"
            "  Use a kernel that was built without it.",
        ),
        (
            "RANDSTRUCT",
            "{tree}/scripts/basic/randstruct.seed: CONFIG_RANDSTRUCT is set, and its seed is not "
            "here\n"
            "  Structures of the running kernel are laid out by it; without it a livepatch would be"
            " compiled with other layouts.\n"
            "  Name the build tree of the kernel: distributions do not ship the seed.",
        ),
    ],
)
def test_kernels_for_which_no_livepatch_can_be_made(tmp_path: Path, option: str, said: str) -> None:
    tree = prepared_tree(tmp_path / "tree", RELEASE, f"{CONFIG}CONFIG_{option}=y\n")
    with pytest.raises(KlpError) as caught:
        locate(str(tree))
    assert str(caught.value) == said.format(tree=tree)


def test_structures_laid_out_at_random_with_their_seed(tmp_path: Path) -> None:
    tree = prepared_tree(tmp_path / "tree", RELEASE, f"{CONFIG}CONFIG_RANDSTRUCT=y\n")
    write(tree / "scripts/basic/randstruct.seed", "seed")
    assert locate(str(tree)).release == RELEASE


def fedora(tmp_path: Path) -> Path:
    """A kernel as Fedora, RHEL and their kin install it, with its debug files."""
    root = tmp_path / "fedora"
    devel = prepared_tree(root / f"usr/src/kernels/{RELEASE}", RELEASE)
    write(devel / "System.map", "ffffffff81000000 T _stext\n")
    modules = root / f"usr/lib/modules/{RELEASE}"
    write(modules / "kernel/fs/ext4/ext4.ko", "module")
    write(modules / "vmlinuz", "image")
    (modules / "build").symlink_to(f"/usr/src/kernels/{RELEASE}")
    debug = root / f"usr/lib/debug/lib/modules/{RELEASE}"
    write(debug / "vmlinux", "vmlinux")
    write(debug / "kernel/fs/ext4/ext4.ko.debug", "debug")
    return root


def test_a_headers_tree_with_its_system_map_is_no_build_tree(tmp_path: Path) -> None:
    root = fedora(tmp_path)
    for path in (f"usr/src/kernels/{RELEASE}", f"usr/lib/modules/{RELEASE}/build"):
        kernel = locate(str(root / path))
        assert [module.name for module in kernel.modules] == ["ext4.ko"]
        assert kernel.image and kernel.image.name == "vmlinuz"
        assert kernel.vmlinux == root / f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux"
        assert kernel.debug_modules == root / f"usr/lib/debug/lib/modules/{RELEASE}"
        assert [path.name for path in debug_files(kernel.debug_modules)] == ["ext4.ko.debug"]


@pytest.mark.parametrize(
    "place",
    [
        f"usr/lib/debug/boot/vmlinux-{RELEASE}",
        f"usr/lib/debug/boot/vmlinux-{RELEASE}.debug",
        f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux.debug",
        f"usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux",
        f"usr/lib/debug/vmlinux-{RELEASE}.debug",
    ],
)
def test_where_distributions_put_vmlinux(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    write(root / place, "vmlinux")
    assert Installed(root, RELEASE).vmlinux() == root / place


@pytest.mark.parametrize(
    "release", ["6.1/../../x", "${HOME}", "6.1 x", ".6.1", "-6.1", "6.1\x1b", "6" * 65, "6.1-ö"]
)
def test_a_release_that_is_no_name_of_a_directory(tmp_path: Path, release: str) -> None:
    with pytest.raises(KlpError) as caught:
        locate(str(prepared_tree(tmp_path / "tree", release)))
    assert str(caught.value) == (
        f"{tmp_path}/tree/include/generated/utsrelease.h: "
        f"release {release!r} cannot be a kernel's\n"
        "  It has letters, digits and . _ + ~ @ = , - only, 64 at most."
    )


def test_words_that_no_file_system_takes() -> None:
    for word in ("a" * 300, "/" + "a" * 300, "a/" * 3000):
        with pytest.raises(KlpError, match=r"is not known|there is no such directory"):
            locate(word)
