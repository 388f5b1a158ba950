"""Debian's kernel: the same bytes from two checkouts, by hand and from a patch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from tests.package.keys import Keys
from tests.scons.checkout import ROOT, Checkout

pytestmark = pytest.mark.kernel


def test_two_checkouts(debian_source_kernel: Kernel, keys: Keys, tmp_path: Path) -> None:
    checkouts = [Checkout(tmp_path / name) for name in ("first", "the/second")]
    for number, checkout in enumerate(checkouts):
        del checkout.environment["KLPBUILD_CACHE"]
        checkout.environment |= {k: os.environ[k] for k in ("HOME", "KLPBUILD_CACHE")
                                 if k in os.environ}  # fmt: skip
        fixes = checkout.directory / "fixes"
        (fixes / "patched").mkdir(parents=True)
        (fixes / "patched" / "fix.patch").write_bytes((ROOT / "tests/docs/fix.patch").read_bytes())
        sample = checkout.directory / "kernel-fixtures/livepatches/meminfo"
        sample.rename(fixes / "written")
        for path in checkout.directory.rglob("*"):
            os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
        checkout.scons(
            f"-j{number + 1}", "livepatches=fixes", f"KVER={debian_source_kernel.release}",
            f"SIGN_KEY={keys.both}", "COMPRESS=xz", "SOURCE_DATE_EPOCH=1700000000", "STRIP=0",
        )  # fmt: skip
    first, second = (c.directory / "build" / debian_source_kernel.name for c in checkouts)
    for name in ("livepatch-written", "livepatch-patched"):
        for suffix in ("finished/{}.ko", "finished/{}.ko.xz", "{}.provenance.json"):
            made = suffix.format(name)
            assert (first / made).read_bytes() == (second / made).read_bytes(), made
