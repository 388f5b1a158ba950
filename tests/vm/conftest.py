"""A kernel that is not there and a QEMU that only plays its part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klpbuild.arch import X86_64
from klpbuild.kernel.tree import Kernel

RELEASE = "6.1.0-test"

_APPLETS = "cat gzip insmod mkdir mount poweroff rmmod sh sleep stat stty grep"

#: What a played QEMU may use: `say` for a record, `log` for lines of the kernel's log.
_PRELUDE = """
import os, re, sys, time
console = open(re.search(r"id=console,path=([^ ]*)", " ".join(sys.argv))[1], "a")
def log(*lines):
    for line in lines:
        console.write(f"<6>[    1.000000] {line}\\r\\n")
    console.flush()
def say(word, number=0, value=0, text=""):
    os.write(1, f"{word} {number} {value} {len(text)}\\n{text}\\n".encode())
    if word == "begin":
        log(f"klpbuild: step {number}")
"""

PlayQemu = Callable[[str], None]


@pytest.fixture(scope="session")
def static_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A statically linked program with a table of applets, as busybox has it."""
    source = tmp_path_factory.mktemp("busybox") / "busybox.c"
    table = "".join(f"{name}\\0" for name in ("[", "[[", *_APPLETS.split()))
    source.write_text(f'const char applets[] = "{table}";\nint main(void) {{ return 0; }}\n')
    program = source.with_suffix("")
    subprocess.run(["gcc", "-static", source, "-o", program], check=True)
    return program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, static_program: Path) -> Path:
    """A directory that is all there is on PATH; its busybox can only list its applets."""
    directory = tmp_path / "bin"
    directory.mkdir()
    shutil.copy2(static_program, directory / "busybox")
    setpriv = shutil.which("setpriv")
    if setpriv:
        (directory / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setenv("KLPBUILD_ACCEL", "tcg")
    return directory


@pytest.fixture
def play_qemu(programs: Path) -> PlayQemu:
    """Install a QEMU that runs some Python instead of a guest."""

    def install(body: str) -> None:
        program = programs / "qemu-system-x86_64"
        program.write_text(f"#!{sys.executable}\n{_PRELUDE}\n{body}\n")
        program.chmod(0o755)

    return install


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel with an image of no use and without modules."""
    image = tmp_path / "boot" / f"vmlinuz-{RELEASE}"
    image.parent.mkdir()
    image.write_bytes(b"image")
    return Kernel(
        name=RELEASE,
        release=RELEASE,
        version=(6, 1, 0),
        build=tmp_path / "build",
        arch=X86_64,
        config=tmp_path / "build" / ".config",
        module_symvers=tmp_path / "build" / "Module.symvers",
        modules=(),
        vmlinux=None,
        system_map=None,
        kallsyms=None,
        filter_functions=None,
        image=image,
        source=None,
        cache=tmp_path / "learned",
    )
