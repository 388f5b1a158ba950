"""What is in the way of a livepatch is told before it is loaded.

The texts of ftrace's and of kprobes' files are those of Linux 6.1 and 6.12.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.running.obstacles import Machine, Wanted, find_obstacles

WANTED = Wanted(
    "livepatch_fix", "6.1.0", (("vmlinux", "meminfo_proc_show"), ("ext4", "ext4_sync")), 8192, False
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   500000 kB\n")
    return Machine(tmp_path, "6.1.0")


def put(machine: Machine, place: str, text: str) -> None:
    path = machine.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(machine: Machine, wanted: Wanted = WANTED) -> list[tuple[str, bool]]:
    return [(each.what, each.stops) for each in find_obstacles(wanted, machine)]


def test_nothing_is_in_the_way(machine: Machine) -> None:
    assert found(machine) == []
    assert found(machine, replace(WANTED, release="")) == []


@pytest.mark.parametrize(
    "place, text, what",
    [
        ("proc/sys/kernel/modules_disabled", "1\n", "the kernel loads no more modules"),
        (
            "proc/sys/kernel/ftrace_enabled",
            "0\n",
            "ftrace is off: the kernel would refuse the livepatch with EBUSY",
        ),
        (
            "sys/module/module/parameters/sig_enforce",
            "Y\n",
            "is not signed, and this kernel loads signed modules only",
        ),
        (
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
            "is not signed, and this kernel loads signed modules only",
        ),
        (
            "proc/meminfo",
            "MemAvailable:       1000 kB\n",
            "needs 4,104 kB, and 1,000 kB are available",
        ),
    ],
)
def test_the_machine(machine: Machine, place: str, text: str, what: str) -> None:
    put(machine, place, text)
    assert found(machine) == [(what, True)]


def test_a_signed_module_may_be_loaded(machine: Machine) -> None:
    put(machine, "sys/module/module/parameters/sig_enforce", "Y\n")
    assert found(machine, replace(WANTED, signed=True)) == []


def test_another_kernel(machine: Machine) -> None:
    assert found(machine, replace(WANTED, release="6.1.1")) == [
        ("is for Linux 6.1.1, and 6.1.0 runs", True)
    ]


def test_a_transition_is_waited_for(machine: Machine) -> None:
    put(machine, "sys/kernel/livepatch/livepatch_other/transition", "1\n")
    put(machine, "sys/kernel/livepatch/livepatch_fix/transition", "1\n")
    assert found(machine) == [("the transition of livepatch_other is under way", False)]


ENABLED = "sys/kernel/debug/tracing/enabled_functions"
HELD = (
    "meminfo_proc_show (1)   I  \ttramp: 0xffffffffc020c000 (klp_ftrace_handler+0x0/0x110) "
    "->klp_ftrace_handler+0x0/0x110\n"
)
IN_MODULE = "ext4_sync [ext4] (2) R I   M \ttramp: ERROR!\n"
PROBES = (
    "ffffffff8151f4b4  k  meminfo_proc_show+0x4    [FTRACE]\n"
    "ffffffffc0a1f4b0  r  ext4_sync+0x0  ext4 [DISABLED][FTRACE]\n"
)


def test_functions_that_others_hold(machine: Machine) -> None:
    put(machine, ENABLED, HELD + IN_MODULE)
    refused = "the kernel would refuse the livepatch with EBUSY"
    assert found(machine) == [
        (f"meminfo_proc_show is held by a tracer: {refused}", True),
        (f"ext4:ext4_sync is held by a tracer: {refused}", True),
    ]
    put(machine, "sys/kernel/debug/kprobes/list", PROBES)
    put(machine, "sys/kernel/debug/fail_function/inject", "meminfo_proc_show\n")
    assert found(machine) == [
        (f"meminfo_proc_show is held by fail_function: {refused}", True),
        (f"ext4:ext4_sync is held by a kprobe with a post handler: {refused}", True),
    ]


def test_a_function_that_a_livepatch_holds_takes_another_one(machine: Machine) -> None:
    put(machine, ENABLED, HELD)
    function = machine.root / "sys/kernel/livepatch/livepatch_old/vmlinux/meminfo_proc_show,1"
    function.mkdir(parents=True)
    assert found(machine) == []


def test_what_only_may_go_wrong(machine: Machine) -> None:
    put(machine, "sys/kernel/tracing/enabled_functions", "meminfo_proc_show (1) R   D  \n")
    put(machine, "sys/kernel/debug/kprobes/list", PROBES.splitlines()[1] + "\n")
    assert found(machine) == [
        ("meminfo_proc_show has a direct call, as of a BPF trampoline", False),
        ("ext4:ext4_sync has a kprobe at its entry", False),
    ]


def test_functions_that_are_only_traced_are_free(machine: Machine) -> None:
    put(machine, ENABLED, "meminfo_proc_show (1)            \nother (1) R I  \n")
    put(machine, "sys/kernel/debug/kprobes/list", "0000  k  meminfo_proc_show+0x20    \n")
    assert found(machine) == []
