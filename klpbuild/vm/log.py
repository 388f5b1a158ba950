"""Read the kernel's log from the console, and the faults that it reports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

#: A line under ``console_msg_format=syslog``, with or without CONFIG_PRINTK_CALLER; without
#: CONFIG_PRINTK_TIME there is no time until the kernel has read its parameters.
_LINE = re.compile(r"<(\d+)>(?:\[ *(\d+\.\d+)\])?(?:\[ *[TC]\d+\])? ?(.*)")
_MARK = re.compile(r"klpbuild: step (\d+|end)")

#: Lines of a report after its first are taken up to its end mark, and at most so many.
_REPORT_MAX = 80
#: A WARN() prints this, its message, and then the line that says ``WARNING:``.
_CUT = "------------[ cut here ]------------"
_CUT_MAX = 8
_END = "---[ end "


@dataclass(frozen=True)
class LogLine:
    """A line of the kernel's log.

    :ivar level: 0 (emergency) to 7 (debug).
    :ivar time: seconds since boot; 0 where it does not say.
    """

    level: int
    time: float
    text: str

    def __str__(self) -> str:
        return f"[{self.time:12.6f}] {self.text}"


class FaultKind(Enum):
    """Kind of a fault that the kernel reports of itself."""

    WARNING = "warning"
    STALL = "stall"
    BUG = "bug"
    OOPS = "oops"
    PANIC = "panic"


#: First match wins.  The texts are those of kernel/panic.c, lib/bug.c, kernel/watchdog.c,
#: kernel/hung_task.c, kernel/rcu/tree_stall.h, lib/ubsan.c, mm/kasan/report.c and
#: arch/x86/mm/fault.c, arch/x86/kernel/{dumpstack,traps}.c.
_FAULTS = (
    (FaultKind.PANIC, re.compile(r"Kernel panic - ")),
    (
        FaultKind.STALL,
        re.compile(r"(watchdog: )?BUG: (soft lockup|workqueue lockup)|.*hard LOCKUP"),
    ),
    (FaultKind.STALL, re.compile(r"INFO: task .* blocked for more than|rcu: INFO: ")),
    (
        FaultKind.OOPS,
        re.compile(
            r"BUG: (kernel NULL pointer|unable to handle)|Oops: |general protection fault"
            r"|kernel BUG at |invalid opcode: |int3: |stack segment: |double fault: "
            r"|Unable to handle kernel|kernel tried to execute|Internal error: "
        ),
    ),
    (FaultKind.BUG, re.compile(r"BUG: |UBSAN: |KFENCE: |possible recursive locking|Bad page ")),
    (FaultKind.WARNING, re.compile(r"WARNING: ")),
)


@dataclass(frozen=True)
class Fault:
    """A fault in the kernel's log.

    :ivar title: the line that names it, and what a WARN() in front of it says.
    :ivar lines: its report.
    """

    kind: FaultKind
    title: str
    lines: tuple[LogLine, ...]


def parse(console: bytes) -> tuple[LogLine, ...]:
    """Parse the kernel's log from what the console printed; what is not of the log is left out.

    A line that the end of the machine cut off is kept.
    """
    found = []
    for text in console.decode(errors="replace").splitlines():
        match = _LINE.search(text)
        if match:
            # facility * 8 + level
            found.append(LogLine(int(match[1]) & 7, float(match[2] or 0), match[3].rstrip()))
    return tuple(found)


def by_step(lines: Iterable[LogLine]) -> dict[int | None, tuple[LogLine, ...]]:
    """Group the lines by the step during which, or after which, they came.

    :returns: step number to lines; None stands for the boot and the power-off.
    """
    found: dict[int | None, list[LogLine]] = {None: []}
    step: int | None = None
    for line in lines:
        mark = _MARK.fullmatch(line.text)
        if mark:
            step = None if mark[1] == "end" else int(mark[1])
            found.setdefault(step, [])
        else:
            found[step].append(line)
    return {number: tuple(of_step) for number, of_step in found.items()}


def faults(lines: Iterable[LogLine]) -> tuple[Fault, ...]:
    """Find the faults that the kernel reports in its log, in order.

    A report's further lines (registers, call trace) belong to its first.  A second line that
    names the same trouble (``Oops:`` after ``BUG: kernel NULL pointer``) starts no new fault.
    """
    found: list[tuple[FaultKind, str, list[LogLine]]] = []
    report: list[LogLine] | None = None  # the last of `found`, while it is open
    cut: list[LogLine] = []  # lines since "cut here": their kind comes with a later line
    for line in lines:
        if line.text.endswith(_CUT):
            cut, report = [line], None
            continue
        kind = _kind(line)
        if kind is not None and (report is None or found[-1][0] is not kind):
            said = [each.text for each in cut[1:]]
            report = [*cut, line]
            found.append((kind, ": ".join([line.text, *said]), report))
            cut = []
        elif report is not None:
            report.append(line)
        elif cut:
            cut.append(line)
        if report is not None and (line.text.startswith(_END) or len(report) >= _REPORT_MAX):
            report = None
        if len(cut) > _CUT_MAX:
            cut = []
    return tuple(Fault(kind, title, tuple(report)) for kind, title, report in found)


def _kind(line: LogLine) -> FaultKind | None:
    return next((kind for kind, pattern in _FAULTS if pattern.match(line.text)), None)
