"""Debian's kernels: their own sign-file, and what they say of what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.kernel.modules import decompress
from klpbuild.kernel.tree import Kernel
from klpbuild.package.compression import Compression
from klpbuild.package.install import install
from klpbuild.package.signing import signature_of, verify
from klpbuild.request.finish import plan
from klpbuild.request.variables import read_variables
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Planned,
    Shell,
    WaitDisabled,
    WaitEnabled,
)
from tests.package.finished import finish
from tests.package.keys import PASSPHRASE, Keys
from tests.package.steps import Bring
from tests.samples import Built

pytestmark = pytest.mark.kernel


def test_sign_file_signs_as_the_miniature_kernels(
    debian_kernel: Kernel, fixtures_kernel: Kernel, keys: Keys, module: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same bytes: both make a PKCS#7 message without a time."""
    monkeypatch.setenv("KBUILD_SIGN_PIN", PASSPHRASE)
    made = []
    for kernel in (debian_kernel, fixtures_kernel):
        said = {"SIGN_KEY": str(keys.encrypted), "SIGN_CERT": str(keys.der), "COMPRESS": "none"}
        how = plan(kernel, read_variables(said, {}))
        assert how.signer is not None and how.signer.digest == "sha256"
        made.append(finish(module, how, tmp_path / kernel.name).read_bytes())
        verify(made[-1], how.signer.certificate, "x")
    assert made[0] == made[1]
    found = signature_of(made[0], "x")
    assert found is not None and found[0] == module.read_bytes()


def test_the_kernels_own_compression(debian_kernel: Kernel, newest_kernel: Kernel) -> None:
    """6.1 of Debian 12 compresses nothing, 6.12 uses xz."""
    assert newest_kernel.version >= (6, 12, 0)
    assert plan(newest_kernel, read_variables({}, {})).compression is Compression.XZ
    if debian_kernel.version < (6, 12, 0):
        assert plan(debian_kernel, read_variables({}, {})).compression is Compression.NONE


@pytest.mark.boot
def test_what_is_installed_loads(newest_samples: Built, keys: Keys, tmp_path: Path) -> None:
    """Signed, compressed, found by depmod and modprobe.

    The kernel does not know the key: it takes the module and says so, and takes none when it
    must know.  A module whose signature it cannot read would be refused in both cases, with
    other words.
    """
    kernel, stage = newest_samples.kernel, tmp_path / "stage"
    variables = read_variables(
        {"SIGN_KEY": str(keys.key), "SIGN_CERT": str(keys.der), "DESTDIR": str(stage)}, {}
    )
    how = plan(kernel, variables)
    finished = finish(newest_samples.module("meminfo"), how, tmp_path / "finished")
    (installed,) = install([finished], how.place, tmp_path / "installed.json")
    assert installed.name == "livepatch-meminfo.ko.xz"
    plain = tmp_path / "finished" / "livepatch-meminfo.ko"
    assert decompress(installed) == plain.read_bytes()

    as_it_is = tmp_path / "as-it-is.ko"
    as_it_is.write_bytes(installed.read_bytes())
    enforce = "/sys/module/module/parameters/sig_enforce"
    name = "livepatch_meminfo"
    group = Group(
        "installed",
        (
            Bring(as_it_is, how.place.path(installed.name)),
            Shell("depmod && cat /lib/modules/*/modules.dep"),
            Planned(
                Shell("modprobe livepatch-meminfo"),
                log=(f"{name}: module verification failed: signature and/or required key missing",),
            ),
            WaitEnabled(name),
            Planned(Shell("cat /proc/meminfo"), output=("Livepatch:       meminfo",)),
            Disable(name),
            WaitDisabled(name),
            Shell("modprobe -r livepatch-meminfo"),
            Shell(f"echo 1 >{enforce}"),
            Planned(
                Shell("modprobe livepatch-meminfo"),
                fails=True,
                log=("Loading of module with unavailable key is rejected",),
            ),
        ),
    )
    (result,) = Guest(kernel).run([group])
    problems = [step.problem for step in result.steps if step.problem]
    assert problems == [], [(s.planned.step.title, s.output, s.log) for s in result.steps]
