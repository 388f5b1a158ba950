"""QEMU's command line and its life."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from klpbuild.arch import RISCV64, X86_64
from klpbuild.errors import KlpError
from klpbuild.vm.accelerator import choose_accelerator, kvm_boots
from klpbuild.vm.busybox import applets, find_busybox
from klpbuild.vm.machine import machine_for
from klpbuild.vm.qemu import qemu_command, run
from tests.vm.conftest import PlayQemu

MACHINE = machine_for(X86_64)


def command(accelerator: str, console: str = "c.log") -> tuple[str, ...]:
    return qemu_command(
        MACHINE,
        accelerator=accelerator,
        image=Path("vmlinuz"),
        initramfs=Path("i.cpio"),
        console=Path(console),
        memory=1024,
        processors=2,
    )


def test_the_command_line(play_qemu: PlayQemu, programs: Path) -> None:
    play_qemu("")
    words = command("tcg", "a,b.log")
    assert words[0] == str(programs / "qemu-system-x86_64")
    text = " ".join(words[1:])
    assert "-accel tcg,thread=single -cpu max,-pku,-la57 -smp 2 -m 1024M -no-reboot" in text
    assert "-chardev file,id=console,path=a,,b.log -serial chardev:console" in text
    assert "-kernel vmlinuz -initrd i.cpio" in text
    parameters = words[words.index("-append") + 1].split()
    assert {"console=ttyS0", "quiet", "panic=-1", "oops=panic", "nokaslr"} <= set(parameters)
    assert "no_timer_check" in parameters, "a busy computer makes the kernel panic"
    kvm = command("kvm")
    assert kvm[kvm.index("-accel") + 1 :][:3] == ("kvm", "-cpu", "host")


def test_qemu_is_missing(programs: Path) -> None:
    with pytest.raises(KlpError) as caught:
        command("tcg")
    assert str(caught.value) == (
        "qemu-system-x86_64 is not installed\n  Run: apt-get install qemu-system-x86"
    )


def test_an_architecture_without_a_machine() -> None:
    with pytest.raises(KlpError) as caught:
        machine_for(RISCV64)
    assert str(caught.value) == (
        "riscv64 kernels cannot be booted\n"
        "  Known machines: x86_64, aarch64, powerpc64le, s390x.\n"
        "  Build the livepatch here and try it on a machine of its own."
    )


def test_the_applets_of_a_busybox_that_need_not_run_here() -> None:
    busybox = find_busybox(X86_64)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    assert applets(busybox.read_bytes()) == frozenset(listed.stdout.split())


def test_output_status_and_messages() -> None:
    heard = bytearray()
    ended = run(("sh", "-c", "echo out; echo err >&2; exit 3"), heard.extend, 30)
    assert (bytes(heard), ended.status, ended.messages) == (b"out\n", 3, "err\n")
    assert not ended.timed_out


def test_it_is_ended_when_it_is_quiet_too_long() -> None:
    heard = bytearray()
    start = time.monotonic()
    ended = run(("sh", "-c", "echo out; exec sleep 100"), heard.extend, 0.3)
    assert ended.timed_out
    assert ended.status == -signal.SIGKILL
    assert bytes(heard) == b"out\n"
    assert time.monotonic() - start < 50


def test_a_talking_guest_is_not_quiet() -> None:
    loop = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"
    assert not run(("sh", "-c", loop), lambda data: None, 1.0).timed_out


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "from klpbuild.vm.qemu import run\n"
        "import sys\n"
        f"run(('sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 100'), print, 90)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_error_while_reading_ends_it(tmp_path: Path) -> None:
    def refuse(data: bytes) -> None:
        raise KlpError("garbled")

    with pytest.raises(KlpError):
        run(("sh", "-c", f"echo $$ > {tmp_path}/pid; echo x; exec sleep 100"), refuse, 90)
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_the_accelerator_that_the_user_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("tcg", "kvm"):
        monkeypatch.setenv("KLPBUILD_ACCEL", kind)
        assert choose_accelerator(MACHINE, Path("vmlinuz")) == kind
    monkeypatch.setenv("KLPBUILD_ACCEL", "hvf")
    with pytest.raises(KlpError) as caught:
        choose_accelerator(MACHINE, Path("vmlinuz"))
    assert str(caught.value) == "KLPBUILD_ACCEL=hvf names no accelerator\n  Known: tcg, kvm."


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("say('ready', text='6.1')\nsay('done')", True),
        ("sys.stderr.write('failed to set MSR 0x10a')\nos.abort()", False),
        ("time.sleep(100)", False),
    ],
)
def test_kvm_is_tried(
    play_qemu: PlayQemu, monkeypatch: pytest.MonkeyPatch, body: str, answer: bool
) -> None:
    monkeypatch.setattr("klpbuild.vm.accelerator._PROBE_SECONDS", 1.0)
    play_qemu(body)
    assert kvm_boots(MACHINE, Path("vmlinuz")) is answer


def test_busybox_is_missing(programs: Path) -> None:
    assert find_busybox(X86_64) == programs / "busybox"
    (programs / "busybox").unlink()
    with pytest.raises(KlpError) as caught:
        find_busybox(X86_64)
    assert str(caught.value) == (
        "a statically linked busybox is needed to boot a guest\n"
        "  This system has no apt-get to download it with.\n"
        "  Run: apt-get install busybox-static"
    )


def test_busybox_is_downloaded_once(programs: Path, tmp_path: Path, cache_dir: Path) -> None:
    """Without root: apt-get and dpkg-deb are played, for a test must not need the network."""
    (programs / "busybox").rename(tmp_path / "static")
    (programs / "apt-get").write_text('#!/bin/sh\n: >"busybox-static_1_amd64.deb"\n')
    (programs / "dpkg-deb").write_text(
        f"#!/bin/sh\nPATH=/bin:/usr/bin\nmkdir -p $3/bin\ncp {tmp_path}/static $3/bin/busybox\n"
    )
    for name in ("apt-get", "dpkg-deb"):
        (programs / name).chmod(0o755)
    kept = find_busybox(X86_64)
    assert kept == cache_dir / "guest" / "busybox-x86_64"
    assert kept.read_bytes() == (tmp_path / "static").read_bytes()
    (programs / "apt-get").unlink()
    assert find_busybox(X86_64) == kept


def test_a_download_that_fails_says_why(programs: Path) -> None:
    (programs / "busybox").unlink()
    (programs / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100")
    (programs / "dpkg-deb").write_text("#!/bin/sh\n")
    for name in ("apt-get", "dpkg-deb"):
        (programs / name).chmod(0o755)
    with pytest.raises(KlpError, match="busybox is needed") as caught:
        find_busybox(X86_64)
    assert "apt-get download: E: Unable to locate package" in str(caught.value)
