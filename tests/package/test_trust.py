"""A kernel that trusts the signer: it enforces signatures and takes the signed livepatch."""

from __future__ import annotations

import os
import shutil
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.package.compression import Compression
from klpbuild.request.finish import plan
from klpbuild.request.variables import read_variables
from klpbuild.vm import guest as vm_guest
from klpbuild.vm.channel import Word
from klpbuild.vm.guest import Guest
from klpbuild.vm.qemu import qemu_command, run
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    Shell,
    WaitDisabled,
    WaitEnabled,
)
from tests.package.finished import finish
from tests.package.keys import Keys
from tests.package.steps import Bring
from tests.samples import Built

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

FIRMWARE = Path("/usr/share/OVMF")

#: The UEFI specification's names: of the list of trusted certificates, of one's format, and
#: of a signature's.
DATABASE = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")

#: Kept over a reset, there for the firmware and for the system, written with a time and a
#: signature: the list of trusted certificates has no others.
ATTRIBUTES = 0x27


def enrolment(certificate: bytes) -> bytes:
    """What is written to the variable: one certificate (DER) of no owner.

    Firmware in setup mode, which has no platform key yet, takes it with an empty signature.
    """
    entry = bytes(16) + certificate
    listed = X509.bytes_le + struct.pack("<3I", 28 + len(entry), 0, len(entry)) + entry
    time = struct.pack("<H5BxIhBx", 2026, 1, 1, 0, 0, 0, 0, 0, 0)
    signature = struct.pack("<IHH", 24, 0x0200, 0x0EF1) + PKCS7.bytes_le
    return struct.pack("<I", ATTRIBUTES) + time + signature + listed


class AfterFirmware:
    """Drops what the firmware writes: its console is on every serial port."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self.receive = receive
        self.before = bytearray()
        self.started = False

    def __call__(self, data: bytes) -> None:
        if self.started:
            self.receive(data)
            return
        self.before += data
        start = self.before.find(Word.READY.value.encode() + b" 0 0 ")
        if start >= 0:
            self.started = True
            self.receive(bytes(self.before[start:]))


@pytest.fixture(params=["debian_samples", "newest_samples"])
def built(request: pytest.FixtureRequest) -> Built:
    if request.param.startswith("newest") and os.environ.get("KLPBUILD_TEST_NEWEST") == "0":
        pytest.skip("KLPBUILD_TEST_NEWEST=0")
    samples = request.getfixturevalue(request.param)
    assert isinstance(samples, Built)
    return samples


@pytest.fixture
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests start by UEFI, whose variables stay from one boot to the next."""
    if not FIRMWARE.exists() and os.environ.get("KLPBUILD_REQUIRE_KERNEL") != "1":
        pytest.skip("not installed: ovmf")
    variables = tmp_path / "variables.fd"
    shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    code = f"if=pflash,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.secboot.fd'}"

    def command(*words: object, **named: object) -> tuple[str, ...]:
        made = qemu_command(*words, **named)
        smm = ("-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on")
        return (*made, *smm, "-drive", code, "-drive", f"if=pflash,format=raw,file={variables}")

    monkeypatch.setattr(vm_guest, "qemu_command", command)
    monkeypatch.setattr(
        vm_guest, "run", lambda command, receive, limit: run(command, AfterFirmware(receive), limit)
    )


def signed(kernel: Kernel, module: Path, key: Path, certificate: Path, directory: Path) -> Path:
    words = {"SIGN_KEY": str(key), "SIGN_CERT": str(certificate), "COMPRESS": "none"}
    how = plan(kernel, read_variables(words, {}))
    assert how.compression is Compression.NONE
    return finish(module, how, directory)


def test_a_key_that_the_firmware_knows(
    built: Built, keys: Keys, firmware: None, tmp_path: Path
) -> None:
    """Debian's kernels take a module whose signer is in the UEFI variable db."""
    kernel, plain = built.kernel, built.module("meminfo")
    ours = signed(kernel, plain, keys.key, keys.der, tmp_path / "ours")
    others = signed(kernel, plain, keys.other_key, keys.other, tmp_path / "others")
    variable = tmp_path / "db.ko"
    variable.write_bytes(enrolment(keys.der.read_bytes()))
    variables, name = "/sys/firmware/efi/efivars", "livepatch_meminfo"
    enrol = Group("enrol", (
        Modprobe("efivarfs"),
        Shell(f"mount -t efivarfs efivarfs {variables}"),
        Bring(variable, Path(variables, DATABASE)),
    ))  # fmt: skip
    load = Group("load", (
        Planned(Shell("cat /proc/keys"), output=("livepatch",)),
        Shell("echo 1 >/sys/module/module/parameters/sig_enforce"),
        Planned(Insmod(plain), fails=True, log=("Loading of unsigned module is rejected",)),
        Planned(Insmod(others), fails=True,
                log=("Loading of module with unavailable key is rejected",)),
        Insmod(ours),
        WaitEnabled(name),
        Planned(Shell("cat /proc/meminfo"), output=("Livepatch:       meminfo",)),
        # K: a livepatch, O: from out of the tree; E would be an unverified signature.
        Planned(Shell(f"cat /sys/module/{name}/taint"), output=("OK",)),
        Disable(name), WaitDisabled(name), Rmmod(name),
    ))  # fmt: skip
    guest = Guest(kernel)
    for number, group in enumerate((enrol, load), 1):
        (result,) = guest.boot([group], number).groups
        problems = [step.problem for step in result.steps if step.problem]
        assert problems == [], [(s.planned.step.title, s.output, s.log) for s in result.steps]
