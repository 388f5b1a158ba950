"""What klpbuild makes beside builds, broken off before a change of a file.

Each is killed, or gets a full disk or one that cannot be written, at one change of a file after
the other; then it is done again, and there must be what there is without all that.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from klpbuild.distro.parts import Part
from klpbuild.errors import explained
from klpbuild.files.locks import working_in
from klpbuild.kernel.cache import FetchedPackage, cached_kernel
from klpbuild.kernel.fetch import fetch
from klpbuild.kernel.locate import locate
from klpbuild.kernel.modules import shipped_modules
from klpbuild.kernel.prepare import prepare
from klpbuild.kernel.source import source_tree
from klpbuild.package.formats import Format
from tests.kernel.machines import Machine, write
from tests.package.demo import demo_package
from tests.patch.small_kernel import make_kernel

RELEASE = "6.1.0-47-cloud-amd64"
VERSION = "6.1.170-3"
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod")
#: What happens at a change: an end like that by kill -9, or the error of the system call.
FAULTS = (signal.SIGKILL, errno.ENOSPC, errno.EROFS)


def changes(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an event changes a file, or starts a program that may do so."""
    if event == "open":
        flags = arguments[2]
        assert isinstance(flags, int)
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in (*CHANGES, "subprocess.Popen")


def broken_off(make: Callable[[], object], point: int, fault: int) -> tuple[int, int]:
    """Make it in a process of its own, with a fault at one change.

    :returns: the exit status: 1 with an error for the user; and how many changes there were.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status, seen = 3, 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if not changes(event, arguments):
                return
            seen += 1
            if seen - 1 != point:
                return
            if fault == signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)
            elif event != "subprocess.Popen":
                raise OSError(fault, os.strerror(fault), str(arguments[0]))

        try:
            sys.addaudithook(hook)
            make()
            status = 0
        except Exception as error:
            status = 1 if explained(error) else 3
            if status == 3:
                sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os.write(writing, str(seen).encode())
            os._exit(status)
    os.close(writing)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as said:
        return ended, int(said.read() or 0)


def contents(directory: Path) -> dict[str, object]:
    """All that is there but locks: bytes of files, links, directories."""
    found: dict[str, object] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_dir():
            found[name] = None
        elif path.name == ".klpbuild-modules.json":  # has times
            found[name] = b""
        elif not (path.name.startswith(".") and path.name.endswith(".lock")):
            found[name] = path.read_bytes()
    return found


def check(make: Callable[[], object], directory: Path, points: int) -> None:
    """Break it off at many changes, with each fault.

    :param directory: where it is made, and nowhere else; it is again as it is now each time.
    """
    before = directory.with_name(f"{directory.name}-before")
    shutil.copytree(directory, before, symlinks=True)
    ended, count = broken_off(make, -1, 0)
    assert ended == 0 and count > 5
    clean = contents(directory)
    assert not [name for name in clean if name.endswith(".new") or "making" in name]
    for fault in FAULTS:
        for point in sorted({number * count // points for number in range(points)}):
            shutil.rmtree(directory)
            shutil.copytree(before, directory, symlinks=True)
            ended, _ = broken_off(make, point, fault)
            assert ended in (0, 1, -signal.SIGKILL), (point, fault)
            assert broken_off(make, -1, 0)[0] == 0, (point, fault)
            assert contents(directory) == clean, (point, fault)


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine.make(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{machine.programs}:{os.environ['PATH']}")
    monkeypatch.setattr("klpbuild.distro.apt.native_architecture", lambda: "amd64")
    monkeypatch.setattr("klpbuild.kernel.fetch.is_here", lambda kernel: True)
    machine.offer_kernel(RELEASE, VERSION, kbuild=f" (>= {VERSION})")
    machine.offer_kbuild("6.1.176-1")
    return machine


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    directory = tmp_path / "kept"
    directory.mkdir()
    monkeypatch.setenv("KLPBUILD_CACHE", str(directory))
    return directory


def test_kernel_fetch(debian: Machine, kept: Path) -> None:
    check(partial(fetch, RELEASE), kept, 8)


def test_what_is_added_to_a_fetched_kernel(debian: Machine, kept: Path) -> None:
    fetch(RELEASE)
    check(partial(fetch, RELEASE, debug_symbols=True), kept, 8)


def test_source(debian: Machine, kept: Path, tmp_path: Path) -> None:
    kernel = fetch(RELEASE)
    for name in ("Makefile", "init/main.c", "fs/open.c"):
        write(tmp_path / "source" / name, name)
    archive = write(kernel.root / "usr/src/linux-source-6.1.tar.xz")
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "source", "linux-source-6.1")
    package = FetchedPackage(Part.SOURCE, "linux-source-6.1", VERSION, "ab")
    type(kernel)(RELEASE, kernel.path, (*kernel.packages, package)).write_record()
    assert cached_kernel(RELEASE) != kernel
    check(lambda: source_tree(locate(RELEASE)), kept, 20)


def test_modules_that_are_decompressed(tmp_path: Path, kept: Path) -> None:
    modules = tmp_path / RELEASE
    for name in ("fs/ext4/ext4.ko", "fs/jbd2/jbd2.ko", "net/tls.ko"):
        write(modules / f"kernel/{name}.xz", lzma.compress(name.encode()))
    write(modules / "extra/vendor.ko.gz", gzip.compress(b"vendor"))
    check(lambda: shipped_modules(modules, kept / "learned/modules"), kept, 40)


@pytest.mark.parametrize("built_in_place", [False, True])
def test_prepare(tmp_path: Path, built_in_place: bool) -> None:
    small = make_kernel(tmp_path)
    if built_in_place:
        write(small.source / ".config", small.kernel.config.read_bytes())
    small.kernel.cache.mkdir(parents=True, exist_ok=True)
    check(lambda: prepare(small.kernel, lambda line: None), small.kernel.cache, 12)


@pytest.mark.parametrize("kind", Format)
def test_dist(tmp_path: Path, kind: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is Format.RPM and not shutil.which("rpmbuild"):
        pytest.skip("rpmbuild is not on this machine")
    package = demo_package(write(tmp_path / "livepatch-demo.ko", bytes(30_000)))
    directory = tmp_path / "dist"
    directory.mkdir()
    if kind is Format.RPM:
        Format.SPEC.make(package, directory)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def make() -> None:
        with working_in(directory, writes=False):
            kind.make(package, directory)

    check(make, directory, 12)
