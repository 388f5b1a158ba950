"""The program ``livepatch`` on a machine in a directory; a guest runs it for real."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.running.machine import SCRIPT, FakeMachine

STACK = "[<0>] msleep+0x2d/0x40\n[<0>] livepatch_version_show+0x1c/0x40 [livepatch_demo_1]\n"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "machine")


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_a_livepatch_is_loaded(machine: FakeMachine) -> None:
    assert outcome(machine.run("load", "livepatch-demo-1")) == (
        0,
        "livepatch_demo_1: enabled\n",
        "",
    )
    assert machine.log == ["modprobe -- livepatch-demo-1"]


def test_a_file_is_inserted(machine: FakeMachine) -> None:
    assert machine.run("load", "./build/livepatch-demo-1.ko").returncode == 0
    assert machine.log == ["insmod ./build/livepatch-demo-1.ko"]


def test_what_is_enabled_is_left_alone(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1")
    done = machine.run("load", "livepatch_demo_1")
    assert outcome(done) == (0, "livepatch_demo_1: enabled already\n", "")
    assert machine.log == []


def test_those_that_are_replaced_are_unloaded(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1")
    machine.add("livepatch_other")
    assert outcome(machine.run("load", "livepatch_demo_2")) == (
        0,
        "livepatch_demo_2: enabled\n"
        "livepatch_demo_1: replaced and unloaded\n"
        "livepatch_other: replaced and unloaded\n",
        "",
    )
    assert [path.name for path in machine.modules.iterdir()] == ["livepatch_demo_2"]


def test_those_that_stay_beside_it_stay(machine: FakeMachine) -> None:
    machine.replaces = False
    machine.add("livepatch_demo_1")
    done = machine.run("load", "livepatch_more")
    assert outcome(done) == (0, "livepatch_more: enabled\n", "")
    assert (machine.modules / "livepatch_demo_1").exists()


def test_one_that_was_disabled_is_loaded_anew(machine: FakeMachine) -> None:
    left = machine.modules / "livepatch_demo_1"
    left.mkdir()
    (left / "refcnt").write_text("0\n")
    (left / "taint").write_text("OK\n")
    assert machine.run("load", "livepatch_demo_1").returncode == 0
    assert machine.log == ["rmmod livepatch_demo_1", "modprobe -- livepatch_demo_1"]


def test_one_that_is_being_disabled_goes_back(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1", enabled=0, transition=1)
    # The kernel must not end the transition before the script turns it.
    done = machine.run("load", "--timeout", "0", "livepatch_demo_1", switching=False)
    assert done.returncode == 3
    assert (machine.livepatches / "livepatch_demo_1" / "enabled").read_text() == "1\n"


def test_a_module_that_the_kernel_refuses(machine: FakeMachine) -> None:
    (machine.root / "refuse").touch()
    assert outcome(machine.run("load", "livepatch_demo_1")) == (
        1,
        "",
        "modprobe: ERROR: refused\n"
        "livepatch: error: livepatch_demo_1 cannot be loaded; `dmesg` says why\n",
    )


def test_a_module_that_is_no_livepatch(machine: FakeMachine) -> None:
    (machine.root / "ordinary").touch()
    assert outcome(machine.run("load", "dummy")) == (
        1,
        "",
        "livepatch: error: dummy is no livepatch, or was disabled meanwhile\n",
    )
    (machine.modules / "dummy" / "taint").write_text("\n")
    words = "livepatch: error: dummy is a loaded module, but no livepatch\n"
    assert outcome(machine.run("load", "dummy")) == (1, "", words)
    assert outcome(machine.run("unload", "dummy")) == (1, "", words)


def test_a_livepatch_is_unloaded(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1")
    done = machine.run("unload", "livepatch-demo-1")
    assert outcome(done) == (0, "livepatch_demo_1: disabled and unloaded\n", "")
    assert list(machine.modules.iterdir()) == []


def test_an_unloaded_one_cannot_be_unloaded(machine: FakeMachine) -> None:
    done = machine.run("unload", "livepatch_demo_1")
    assert outcome(done) == (1, "", "livepatch: error: livepatch_demo_1 is not loaded\n")


def test_a_stalled_unload_names_the_tasks(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1")
    machine.add_task(41, "ca\x1bt", 1, STACK)
    machine.add_task(42, "switched", 0)
    machine.add_task(43, "idle", -1)
    words = (
        "livepatch: error: the transition from livepatch_demo_1 has not ended after 0 s\n"
        "  task 41 (cat)\n"
        "    [<0>] msleep+0x2d/0x40\n"
        "    [<0>] livepatch_version_show+0x1c/0x40 [livepatch_demo_1]\n"
        "The kernel goes on trying.  The same command waits on, the opposite one goes back.\n"
    )
    (machine.livepatches / "livepatch_demo_1" / "transition").write_text("1\n")
    done = machine.run("unload", "--timeout", "0", "livepatch_demo_1", switching=False)
    assert outcome(done) == (3, "", words)
    assert not (machine.livepatches / "livepatch_demo_1" / "force").exists()


def test_a_stalled_load_names_the_tasks(machine: FakeMachine) -> None:
    machine.add_task(41, "switched", 1, STACK)
    machine.add_task(42, "waiting", 0)
    done = machine.run("load", "--timeout", "0", "livepatch_demo_1", switching=False)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "livepatch: error: the transition to livepatch_demo_1 has not ended after 0 s\n"
        "  task 42 (waiting)\nThe kernel goes on"
    )


def test_force_is_used_only_when_asked_and_late(machine: FakeMachine) -> None:
    words = ("load", "--force", "--timeout", "0", "livepatch_demo_1")
    done = machine.run(*words, switching=False)
    assert (machine.livepatches / "livepatch_demo_1" / "force").read_text() == "1\n"
    assert done.returncode == 0
    assert done.stderr.endswith(
        "livepatch_demo_1: forced; its module can never be unloaded, and the tasks above may"
        " misbehave\n"
    )


def test_one_transition_at_a_time(machine: FakeMachine) -> None:
    machine.add("livepatch_other", transition=1)
    done = machine.run("load", "--timeout", "0", "livepatch_demo_1", switching=False)
    assert outcome(done) == (
        3,
        "",
        "livepatch: error: the transition to livepatch_other has not ended after 0 s\n",
    )
    assert machine.log == []


def test_status(machine: FakeMachine) -> None:
    assert outcome(machine.run("status")) == (0, "no livepatch is loaded\n", "")
    machine.add("livepatch_demo_2", transition=1)
    (machine.livepatches / "livepatch_demo_2" / "ext4" / "ext4_sync_fs,1").mkdir(parents=True)
    (machine.livepatches / "livepatch_demo_2" / "ext4" / "patched").write_text("0\n")
    machine.add_task(41, "cat", 0, STACK)
    left = machine.modules / "livepatch_demo_1"
    left.mkdir()
    (left / "taint").write_text("OEK\n")
    (machine.modules / "ext4").mkdir()
    (machine.modules / "ext4" / "taint").write_text("\n")
    assert machine.run("status", switching=False).stdout == (
        "livepatch_demo_2: being enabled\n"
        "  ext4 (not loaded): ext4_sync_fs,1\n"
        "  vmlinux: meminfo_proc_show,1\n"
        "  task 41 (cat)\n"
        "    [<0>] msleep+0x2d/0x40\n"
        "    [<0>] livepatch_version_show+0x1c/0x40 [livepatch_demo_1]\n"
        "livepatch_demo_1: disabled, module still loaded\n"
    )
    one = machine.run("status", "livepatch-demo-1", switching=False)
    assert one.stdout == "livepatch_demo_1: disabled, module still loaded\n"
    none = machine.run("status", "ext4", switching=False)
    assert outcome(none) == (1, "", "livepatch: error: ext4 is not loaded\n")


def test_a_kernel_without_livepatch(machine: FakeMachine) -> None:
    machine.livepatches.rmdir()
    words = "livepatch: error: this kernel has no livepatch support\n"
    for command in (["status"], ["load", "x"], ["unload", "x"]):
        assert outcome(machine.run(*command, switching=False)) == (1, "", words)
    # A package is removed all the same.
    assert outcome(machine.run("removed", "x", switching=False)) == (0, "", "")


def test_the_timeout_of_the_environment(machine: FakeMachine) -> None:
    """bash would run what stands in an index within arithmetic."""
    for value in ("a[$(touch ran)]", "-1", "1 ", "0x10", "9" * 30):
        machine.timeout = value
        done = machine.run("status", switching=False)
        assert done.returncode == 2 and done.stderr.startswith("livepatch: error: --timeout ")
    for value in ("0", "08", "000000000009"):
        machine.timeout = value
        assert machine.run("status", switching=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "no command is given"),
        (["relaod"], "relaod is not a command"),
        (["load"], "load needs a module"),
        (["load", "a", "b"], "load has too many arguments"),
        (["load", "--timeout", "soon", "a"], "--timeout needs a number of seconds"),
        (["load", "--timeout"], "--timeout needs a number of seconds"),
        (["load", "--timeout", "1+1", "a"], "--timeout needs a number of seconds"),
        (["load", "--timeout", "1000000000", "a"], "--timeout takes 999999999 seconds at most"),
        (["unload", "--now", "a"], "--now is not an option"),
    ],
)
def test_wrong_usage(machine: FakeMachine, words: list[str], error: str) -> None:
    done = machine.run(*words, switching=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"livepatch: error: {error}\nusage: livepatch load")


RELEASE = "6.1.0-47-cloud-amd64"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([RELEASE], 0),
        ([RELEASE, "6.1.170-3"], 0),
        ([RELEASE, "6.1.170-1"], 1),
        ([RELEASE, "6.1.170"], 1),
        (["6.1.0-47-amd64"], 1),
    ],
)
def test_which_kernel_it_is_for(machine: FakeMachine, words: list[str], status: int) -> None:
    assert machine.run("is-for", *words, switching=False).returncode == status


def test_what_an_installation_says(machine: FakeMachine) -> None:
    def report(*words: str) -> str:
        return machine.run("report", "livepatch-demo-1", *words, switching=False).stdout

    assert report("6.1.0-48-cloud-amd64", "6.1.171-1") == (
        "livepatch_demo_1: not loaded, since it is for Linux 6.1.0-48-cloud-amd64 (6.1.171-1)"
        " and 6.1.0-47-cloud-amd64 runs\n"
    )
    assert report(RELEASE) == "livepatch_demo_1: not loaded; it will be at the next boot\n"
    (machine.root / "proc" / "cmdline").write_text("quiet livepatch.enable=0 ro\n")
    assert report(RELEASE) == (
        "livepatch_demo_1: not loaded, since the kernel command line says livepatch.enable=0\n"
    )
    machine.add("livepatch_demo_1")
    assert report(RELEASE) == "livepatch_demo_1: enabled\n"


def test_a_package_goes_in_any_case(machine: FakeMachine) -> None:
    machine.add("livepatch_demo_1", enabled=0, transition=1)
    machine.add_task(41, "cat", 1)
    words = ("removed", "--timeout", "0", "livepatch_demo_1")
    done = machine.run(*words, switching=False)
    assert done.returncode == 0
    assert done.stderr.endswith(
        "  task 41 (cat)\n"
        "The kernel goes on trying.  The same command waits on, the opposite one goes back.\n"
        "livepatch_demo_1: not unloaded; the kernel keeps it until the next boot\n"
    )


@pytest.mark.parametrize("place", ["--chroot", "--container"])
def test_in_a_chroot_nothing_is_unloaded(machine: FakeMachine, place: str) -> None:
    machine.add("livepatch_demo_1")
    detect = machine.root / "bin" / "systemd-detect-virt"
    detect.write_text(f'#!/bin/sh\n[ "$2" = {place} ]\n')
    assert outcome(machine.run("removed", "livepatch_demo_1")) == (0, "", "")
    assert machine.log == []


def test_only_root_can(machine: FakeMachine) -> None:
    user = machine.root / "bin" / "id"
    user.write_text("#!/bin/sh\necho 1000\n")
    user.chmod(0o755)
    path = f"{user.parent}:/usr/bin:/bin"
    for command in ("load", "unload"):
        done = subprocess.run(
            ["sh", str(SCRIPT), command, "livepatch_demo_1"],
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        words = f"livepatch: error: only root can {command} a livepatch\n"
        assert outcome(done) == (1, "", words)
