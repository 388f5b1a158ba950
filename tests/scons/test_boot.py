"""The target ``boot``: what the kernel says is on the report page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from tests.scons.checkout import Checkout


@pytest.mark.kernel
@pytest.mark.boot
def test_the_page_has_what_the_kernel_said(debian_kernel: Kernel, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    del checkout.environment["KLPBUILD_CACHE"]
    passed_on = ("HOME", "KLPBUILD_CACHE", "KLPBUILD_ACCEL")
    checkout.environment |= {name: os.environ[name] for name in passed_on if name in os.environ}
    words = ("livepatch=meminfo", f"kernel={debian_kernel.name}")
    said = checkout.scons(*words, "boot")
    assert "livepatch_meminfo: loaded, patched, disabled and unloaded." in said
    page = checkout.directory / "build" / debian_kernel.name / "livepatch-meminfo.html"
    written = page.read_text()
    verdict = "livepatch_meminfo: loaded, patched, disabled and unloaded."
    assert f'<p class="verdict good">{verdict}</p>' in written
    assert "livepatch: &#39;livepatch_meminfo&#39;: patching complete" in written
    # It is no change by somebody else, which the next build would take back.
    assert "is not what was built" not in checkout.scons(*words)
    assert page.read_text() == written
