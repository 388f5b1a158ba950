"""scons with a packager's variables and targets, on the miniature kernel."""

from __future__ import annotations

import lzma
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from klpbuild.check.rule import RefusedError
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.locate import locate
from klpbuild.package.signing import find_signer, signature_of
from klpbuild.pipeline.steps import note_digest, sign_checked
from tests.package.keys import PASSPHRASE, Keys, make_keys
from tests.scons.checkout import Checkout

pytestmark = pytest.mark.slow

DIRECTORY = Path("lib/modules/6.1.0-fixtures/updates/livepatch")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def checkout(shared: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """The shared one, for a user with an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    before = dict(shared.environment)
    del shared.environment["KLPBUILD_CACHE"]
    shared.environment["HOME"] = str(home)
    yield shared
    assert list(home.iterdir()) == []
    shared.environment = before


@pytest.fixture(scope="module", autouse=True)
def restored(shared: Checkout) -> Iterator[None]:
    """Leaves the shared checkout as it was."""
    yield
    shared.scons("livepatch=meminfo")


@pytest.mark.slow
def test_a_module_that_was_changed_is_neither_signed_nor_described(
    checkout: Checkout, keys: Keys
) -> None:
    """What was checked is what is signed, whoever had the file in between."""
    variables = (f"SIGN_KEY={keys.key}", f"SIGN_CERT={keys.der}", "livepatch=meminfo")
    build = checkout.directory / "build/fixtures"
    checkout.scons(*variables)
    signed = (build / "finished/livepatch-meminfo.ko").read_bytes()
    module = build / "livepatch-meminfo.ko"
    data = module.read_bytes()
    place = data.index(b"description=") + 14
    module.write_bytes(data[:place] + b"?" + data[place + 1 :])
    text = checkout.scons("-k", *variables, status=2)
    for name in ("finished/livepatch-meminfo.ko", "livepatch-meminfo.provenance.json"):
        assert (
            f"scons: *** [build/fixtures/{name}] error: build/fixtures/livepatch-meminfo.ko: "
            "is not the module that was checked\n"
            "  Its SHA-256 is not the one in build/fixtures/livepatch-meminfo/sha256.\n"
            "  Remove it, and build again.\n"
        ) in text
    module.unlink()
    checkout.scons(*variables)
    assert (build / "finished/livepatch-meminfo.ko").read_bytes() == signed


def test_what_is_signed_is_checked(keys: Keys, shared: Checkout, tmp_path: Path) -> None:
    """Also a module that someone described as good."""
    build = shared.directory / "build/fixtures"
    kernel = locate(str(build / "kernel"), learned=tmp_path)
    data = (build / "livepatch-meminfo.ko").read_bytes()
    module, noted, output = (tmp_path / name for name in ("x.ko", "sha256", "signed.ko"))
    module.write_bytes(data.replace(b"sym.vmlinux.si_swapinfo", b"sym.vmlinux.si_swapinfx"))
    note_digest(module, noted)
    signer = find_signer(kernel, str(keys.key), keys.der)
    with pytest.raises(RefusedError):
        sign_checked(kernel, module, noted, build / "symbols.klp", signer, output)
    assert not output.exists()


def snapshot(top: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all that is below a directory, without what a build may write."""
    return {
        str(path.relative_to(top)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(top.rglob("*"))
        if path.is_file() and path.relative_to(top).parts[0] not in ("build", "cache")
        and "__pycache__" not in path.parts
    }  # fmt: skip


def test_a_whole_release(checkout: Checkout, keys: Keys, tmp_path: Path) -> None:
    """Signed, compressed, checked, installed, removed: only build/ and DESTDIR are written."""
    before = snapshot(checkout.directory)
    stage = tmp_path / "stage"
    variables = (f"SIGN_KEY={keys.encrypted}", f"SIGN_CERT={keys.der}", "COMPRESS=xz",
                 f"DESTDIR={stage}", "PREFIX=/usr", "SOURCE_DATE_EPOCH=1700000000")  # fmt: skip
    checkout.environment["KBUILD_SIGN_PIN"] = PASSPHRASE
    text = checkout.scons("livepatch=meminfo", "check", "install", *variables)
    place = stage / "usr" / DIRECTORY / "livepatch-meminfo.ko.xz"
    assert f"  INSTALL {place}\n" in text
    finished = "build/fixtures/finished/livepatch-meminfo.ko"
    assert f"{finished}: signed by CN = livepatch, sha256\n" in text
    assert f"{finished}: Linux 6.1.0-fixtures would load it" in text
    signed = signature_of(lzma.decompress(place.read_bytes()), "x")
    assert signed is not None
    module = checkout.directory / "build/fixtures/livepatch-meminfo.ko"
    assert signed[0] == module.read_bytes()
    assert place.stat().st_mtime == 1_700_000_000
    assert [path for path in stage.rglob("*") if path.is_file()] == [place]
    assert checkout.scons("uninstall", *variables) == f"  REMOVE  {place}\n"
    assert not stage.exists()
    assert snapshot(checkout.directory) == before
    secrets_are_nowhere(checkout.directory, keys)


def secrets_are_nowhere(directory: Path, keys: Keys) -> None:
    """Neither a key nor its passphrase nor its place is in anything that a build leaves."""
    secrets = [PASSPHRASE.encode(), bytes(keys.encrypted), bytes(keys.key), b"PRIVATE KEY"]
    secrets += keys.key.read_bytes().splitlines()[1:4]
    for path in directory.rglob("*"):
        if path.is_file() and "klpbuild" not in path.relative_to(directory).parts[:1]:
            data = path.read_bytes()
            assert [secret for secret in secrets if secret in data] == [], path


def test_what_is_wrong_is_told_before_anything_is_built(checkout: Checkout, keys: Keys) -> None:
    wrong = (f"SIGN_KEY={keys.encrypted}", f"SIGN_CERT={keys.der}", "livepatch=version")
    assert checkout.scons(*wrong, status=2) == (
        f"scons: error: SIGN_KEY={keys.encrypted}: is encrypted\n"
        "  Set KBUILD_SIGN_PIN in the environment to its passphrase.\n"
    )
    tree = checkout.directory / "build/fixtures/kernel"
    checkout.environment["KDIR"] = str(tree)
    assert checkout.scons("symbols", "CC=none", "KSRC=kernel-fixtures", status=2) == (
        "scons: error: CC=none: is not a compiler on this machine\n"
        "  It must say its version when it is called with --version.\n"
    )
    assert checkout.scons("kernel=fixtures", "KVER=6.1.0", status=2) == (
        "scons: error: kernel= and KVER= are both given\n"
        "  They are the same thing in two spellings.\n"
        "  Give one of them.\n"
    )


def test_the_exit_status_tells(checkout: Checkout, tmp_path: Path) -> None:
    """Of `check`, and of `install`; with -k both are tried."""
    module = checkout.directory / "build/fixtures/livepatch-meminfo.ko"
    whole, destdir = module.read_bytes(), tmp_path / "stage"
    destdir.mkdir()
    (destdir / "lib").write_text("")
    module.write_bytes(whole.replace(b"license=GPL\0", b"license=BSD\0"))
    try:
        words = ("-k", "livepatch=meminfo", "check", "install", f"DESTDIR={destdir}")
        text = checkout.scons(*words, status=2)
    finally:
        module.write_bytes(whole)
    assert "error: the licence is 'BSD' [KLP207]" in text
    assert (
        f"scons: *** [install fixtures] error: {destdir}/lib/modules: cannot be written: "
        "Not a directory\n"
        "  Nothing was installed; what was there before is still whole.\n"
    ) in text


@pytest.mark.slow
def test_a_variable_rebuilds_what_depends_on_it(checkout: Checkout, keys: Keys) -> None:
    work = "livepatch-meminfo"
    objects = {f"{work}/{name}.o" for name in ("meminfo", "tables", "inputs")}
    report = "livepatch-meminfo.provenance.json"
    linked, finished = f"{work}/linked/livepatch-meminfo.ko", "finished/livepatch-meminfo.ko"
    module = {f"{work}/dependencies", "livepatch-meminfo.ko", "livepatch-meminfo.graphml", report}
    key = ("livepatch=meminfo", f"SIGN_KEY={keys.both}")
    assert checkout.built(*key, "SIGN_HASH=sha512") == {finished}
    assert checkout.built(*key, "SIGN_HASH=sha512", "COMPRESS=gzip") == {f"{finished}.gz"}
    checkout.environment["KCFLAGS"] = "-Wextra"  # changes nothing in the objects
    assert checkout.built("livepatch=meminfo", "PREFIX=/usr") == {*objects, linked, report}
    tables = {f"{work}/tables.c", f"{work}/tables.o"}
    assert checkout.built("livepatch=meminfo", "STRIP=0", "REPLACE=0") == {
        *tables, linked, *module
    }  # fmt: skip
    path = checkout.directory / "build/fixtures/livepatch-meminfo.ko"
    assert ElfFile.read(path).section(".debug_info") is not None


def without_network() -> tuple[str, ...]:
    """What runs a program where no network is; nothing where the machine does not allow it."""
    words = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--user", "--net")
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return () if tried.returncode else words


@pytest.mark.slow
def test_builds_are_the_same_everywhere(checkout: Checkout, keys: Keys, tmp_path: Path) -> None:
    """In another directory, time, without network, with other jobs, with debug data, too."""
    options: tuple[str, ...] = ("livepatch=meminfo", "COMPRESS=zstd", "STRIP=0")
    elsewhere = tmp_path / "a-longer-name" / "elsewhere"
    other = Checkout(elsewhere, checkout.environment, without_network())
    for path in other.directory.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    options += (f"SIGN_KEY={keys.both}", "SOURCE_DATE_EPOCH=1700000000")
    checkout.scons("-j1", *options)
    other.scons("-j2", *options)
    names = (
        "finished/{}.ko",
        "finished/{}.ko.zst",
        "{}.provenance.json",
        "{}.cdx.json",
        "{}.openvex.json",
    )
    for name in names:
        made = f"build/fixtures/{name.format('livepatch-meminfo')}"
        same = (checkout.directory / made).read_bytes() == (other.directory / made).read_bytes()
        assert same, made
