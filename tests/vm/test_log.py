"""The kernel's log on the console."""

from __future__ import annotations

from klpbuild.vm.log import Fault, FaultKind, LogLine, by_step, faults, parse


def lines(*texts: str) -> tuple[LogLine, ...]:
    return tuple(LogLine(6, 1.0, text) for text in texts)


def kinds(found: tuple[Fault, ...]) -> list[tuple[FaultKind, str]]:
    return [(fault.kind, fault.title) for fault in found]


def test_lines_with_level_and_time() -> None:
    console = (
        b"SeaBIOS\r\n<6>[    0.123456] Linux version 6.1\r\n"
        b"<12>[   10.000001] klpbuild: step 0\r\n"
        b"<4>[   11.5][  T42] livepatch: x\r\n<3>[   12.0] cut o"
    )
    assert parse(console) == (
        LogLine(6, 0.123456, "Linux version 6.1"),
        LogLine(4, 10.000001, "klpbuild: step 0"),
        LogLine(4, 11.5, "livepatch: x"),
        LogLine(3, 12.0, "cut o"),
    )


def test_lines_of_a_kernel_that_notes_no_time() -> None:
    """Without CONFIG_PRINTK_TIME, before the kernel has read its parameters."""
    console = b"<5>Linux version 6.12\n<4>[T1] WARNING: CPU: 0\n<4>[    0.2] later\n"
    assert parse(console) == (
        LogLine(5, 0, "Linux version 6.12"),
        LogLine(4, 0, "WARNING: CPU: 0"),
        LogLine(4, 0.2, "later"),
    )


def test_lines_by_step() -> None:
    found = by_step(
        lines("boot", "klpbuild: step 0", "a", "b", "klpbuild: step 1", "klpbuild: step 2", "c",
              "klpbuild: step end", "reboot: Power down")
    )  # fmt: skip
    texts = {step: [line.text for line in of_step] for step, of_step in found.items()}
    assert texts == {None: ["boot", "reboot: Power down"], 0: ["a", "b"], 1: [], 2: ["c"]}


def test_ordinary_lines_are_no_faults() -> None:
    assert not faults(
        lines(
            "rcu: \tRCU CPU stall warnings timeout set to 21",
            "livepatch: 'x': patching complete",
            "x: loading out-of-tree module taints kernel.",
            "Oopsla: a driver",
        )
    )


def test_a_warning_says_its_message_and_has_one_report() -> None:
    found = faults(
        lines(
            "------------[ cut here ]------------",
            "refcount went wrong",
            "WARNING: CPU: 0 PID: 1 at lib/x.c:3 f+0x1/0x2",
            "Call Trace:",
            " f+0x1/0x2",
            "---[ end trace 0000000000000000 ]---",
            "unrelated",
            "------------[ cut here ]------------",
            "WARNING: CPU: 0 PID: 1 at lib/x.c:9 g+0x1/0x2",
            "---[ end trace 0000000000000000 ]---",
        )
    )
    assert kinds(found) == [
        (
            FaultKind.WARNING,
            "WARNING: CPU: 0 PID: 1 at lib/x.c:3 f+0x1/0x2: refcount went wrong",
        ),
        (FaultKind.WARNING, "WARNING: CPU: 0 PID: 1 at lib/x.c:9 g+0x1/0x2"),
    ]
    assert [len(fault.lines) for fault in found] == [6, 3]


def test_an_oops_and_the_panic_after_it() -> None:
    found = faults(
        lines(
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "#PF: supervisor write access in kernel mode",
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "RIP: 0010:f+0x1/0x2",
            "---[ end trace 0000000000000000 ]---",
            "Kernel panic - not syncing: Fatal exception",
            "Kernel Offset: disabled",
        )
    )
    assert kinds(found) == [
        (FaultKind.OOPS, "BUG: kernel NULL pointer dereference, address: 0000000000000008"),
        (FaultKind.PANIC, "Kernel panic - not syncing: Fatal exception"),
    ]


def test_a_bug_on_is_an_oops() -> None:
    (fault,) = faults(
        lines(
            "------------[ cut here ]------------",
            "kernel BUG at fs/x.c:7!",
            "invalid opcode: 0000 [#1] SMP",
        )
    )
    assert (fault.kind, fault.title) == (FaultKind.OOPS, "kernel BUG at fs/x.c:7!")


def test_stalls_and_other_bugs() -> None:
    found = faults(
        lines(
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [insmod:97]",
            "---[ end trace 0 ]---",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "---[ end trace 0 ]---",
            "BUG: scheduling while atomic: x/1/0x2",
        )
    )
    assert [fault.kind for fault in found] == [FaultKind.STALL, FaultKind.STALL, FaultKind.BUG]
