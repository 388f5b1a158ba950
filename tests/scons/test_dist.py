"""The target ``dist``: which packages are made, and when again."""

from __future__ import annotations

import pytest

from tests.scons.checkout import Checkout

pytestmark = pytest.mark.slow

LIVEPATCH = "kernel-fixtures/livepatches/meminfo/livepatch.toml"
MODULE = "build/fixtures/livepatch-meminfo-1.ko"
DIST = "build/fixtures/dist"
NAME = "livepatch-meminfo-6.1.0-fixtures"


def dist(checkout: Checkout, *words: str, status: int = 0) -> str:
    options = ("livepatch=meminfo", "packages=deb,spec", "SOURCE_DATE_EPOCH=1700000000")
    return checkout.scons(*options, *words, "dist", status=status)


def test_a_package_needs_a_version(checkout: Checkout) -> None:
    said = dist(checkout, status=2)
    assert said.endswith(
        "scons: *** [dist fixtures livepatch-meminfo] error: livepatch meminfo has no version\n"
        "  A package needs one, and the kernel loads a newer livepatch beside the older one\n"
        "  only if their modules' names differ: the version is part of the name.\n"
        '  Write version = "1" into its livepatch.toml.\n'
    )
    assert not (checkout.directory / DIST).exists()


@pytest.mark.slow
def test_packages_are_made_when_something_changed(checkout: Checkout) -> None:
    toml = checkout.directory / LIVEPATCH
    toml.write_text('version = "1"\n' + toml.read_text())
    said = dist(checkout)
    assert f"  KLP     {MODULE}\n" in said
    made = [line for line in said.splitlines() if line.startswith("  DIST")]
    assert made == [f"  DIST    {DIST}/{NAME}_1_amd64.deb", f"  DIST    {DIST}/{NAME}.spec"]
    assert sorted(path.name for path in (checkout.directory / DIST).iterdir()) == [
        f"{NAME}-1.tar.gz",
        f"{NAME}.spec",
        f"{NAME}_1_amd64.deb",
    ]
    assert dist(checkout) == "scons: `dist' is up to date.\n"
    assert "DIST" in dist(checkout, "SOURCE_DATE_EPOCH=1700000001")
    assert not (checkout.directory / MODULE).with_suffix(".deb").exists()


def test_an_unknown_kind(checkout: Checkout) -> None:
    assert dist(checkout, "packages=apk", status=2) == (
        "scons: error: packages=apk: 'apk' is no kind of package\n"
        "  Known: deb, spec, rpm, meta-deb, meta-rpm.\n"
    )
