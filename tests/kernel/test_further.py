"""Modules that the user names beside the kernel's own."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.further import with_modules
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from tests.kernel.machines import prepared_tree, write

RELEASE = "6.1.170-custom"


def module(path: Path, vermagic: str = f"{RELEASE} SMP", *tags: str) -> Path:
    """A module that says for which kernel it is."""
    texts = "".join(f'"{tag}\\0"' for tag in (f"vermagic={vermagic}", *tags))
    source = write(
        path.with_suffix(".c"),
        f'static const char says[] __attribute__((section(".modinfo"), used)) = {texts};\n',
    )
    subprocess.run(["gcc", "-c", source, "-o", path], check=True)
    source.unlink()
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    tree = prepared_tree(tmp_path / "linux", RELEASE)
    for name in ("fs/ext4.ko", "net/tun.ko"):
        write(tree / name, "module")
    write(tree / "modules.order", "fs/ext4.ko\nnet/tun.ko\n")
    return locate(str(tree))


def test_files_and_directories(kernel: Kernel, tmp_path: Path) -> None:
    file = module(tmp_path / "my-driver.ko")
    packed = module(tmp_path / "out/build/other.ko")
    write(packed.with_suffix(".ko.xz"), lzma.compress(packed.read_bytes()))
    content = packed.read_bytes()
    packed.unlink()
    module(tmp_path / "out/old.ko", "5.10.0-amd64 SMP")
    module(tmp_path / "out/livepatch-fix.ko", f"{RELEASE} SMP", "livepatch=Y")
    found = with_modules(kernel, [file, tmp_path / "out"])
    assert {path.name for path in found.modules} == {
        *("ext4.ko", "tun.ko"),
        *("my-driver.ko", "other.ko"),
    }
    assert {path.name for path in found.further} == {"my-driver.ko", "other.ko"}
    assert [p.read_bytes() for p in found.further if p.name == "other.ko"] == [content]
    assert with_modules(kernel, [file, tmp_path / "out"]) == found


def test_a_module_in_the_place_of_the_kernel_s_own(kernel: Kernel, tmp_path: Path) -> None:
    newer = module(tmp_path / "tun.ko")
    found = with_modules(kernel, [newer])
    assert [path for path in found.modules if path.name == "tun.ko"] == [newer]


def test_nothing_is_named(kernel: Kernel) -> None:
    assert with_modules(kernel, []) == kernel


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", "DIR/none: there is no such file or directory"),
        ("text", "DIR/text: is not called like a module\n  MODULE.ko"),
        (
            "old.ko",
            "DIR/old.ko: is a module for Linux 5.10.0-amd64, not for 6.1.170-custom\n"
            "  Positions of symbols belong to the very file that the kernel loads.",
        ),
        (
            "fix.ko",
            "DIR/fix.ko: is not a module that a livepatch can patch\n"
            "  It is a livepatch, or does not say for which kernel it is.",
        ),
        (
            "empty",
            "DIR/empty: holds no module for Linux 6.1.170-custom",
        ),
        (
            "others",
            "DIR/others: holds no module for Linux 6.1.170-custom\n"
            "  It holds modules for: 5.10.0-amd64.",
        ),
        (
            "two",
            "DIR/two/b/x-y.ko: another module is called x_y, too\n"
            "  The kernel loads one of a name: DIR/two/a/x_y.ko.\n"
            "  Name one of them.",
        ),
        (
            "arm",
            "DIR/arm/x.ko: is for aarch64, and the kernel is for x86_64\n"
            "  Name the file of this kernel.",
        ),
        (
            "s390x.ko",
            "DIR/s390x.ko: is for s390x, and the kernel is for x86_64\n"
            "  Name the file of this kernel.",
        ),
    ],
)
def test_what_is_not_a_further_module(kernel: Kernel, tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / "text", "no module")
    (tmp_path / "empty").mkdir()
    module(tmp_path / "old.ko", "5.10.0-amd64 SMP")
    module(tmp_path / "others/old.ko", "5.10.0-amd64 SMP")
    module(tmp_path / "fix.ko", f"{RELEASE} SMP", "livepatch=Y")
    module(tmp_path / "two/a/x_y.ko")
    module(tmp_path / "two/b/x-y.ko")
    plain = module(tmp_path / "arm/x.ko").read_bytes()
    (tmp_path / "arm/x.ko").write_bytes(plain[:18] + b"\xb7\0" + plain[20:])
    (tmp_path / "s390x.ko").write_bytes(b"\x7fELF\x02\x02" + bytes(13) + b"\x16" + bytes(44))
    with pytest.raises(KlpError) as caught:
        with_modules(kernel, [tmp_path / name])
    assert str(caught.value).replace(str(tmp_path), "DIR") == text
