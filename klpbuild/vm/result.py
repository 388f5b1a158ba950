"""Results of a guest: the outcome of each step, from the guest and from its kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from klpbuild.vm.log import Fault, FaultKind, LogLine, faults
from klpbuild.vm.scenario import Group, Planned

#: Log level of pr_warn; lower numbers are worse.
_WARNING = 4
#: Limit on the kernel's lines that explain why a step failed; the log has them all.
_REASONS_MAX = 6


class Status(Enum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  #: an earlier step of the group failed
    LOST = "lost"  #: the guest died during the step
    NOT_RUN = "not run"  #: the guest died before it


class End(Enum):
    """How a guest ended."""

    DONE = "done"
    UNCLEAN = "unclean"  #: a group left a livepatch behind, so the rest was not run
    PANIC = "panic"
    OOPS = "oops"
    TIME_LIMIT = "time limit"
    VANISHED = "vanished"


@dataclass(frozen=True)
class Livepatch:
    """A livepatch as ``/sys/kernel/livepatch/<name>`` shows it.

    :ivar objects: each object's name, and whether it is patched (None before Linux 6.1,
        which does not say).
    :ivar functions: ``object/function,sympos``.
    """

    name: str
    enabled: bool
    transition: bool
    objects: tuple[tuple[str, bool | None], ...]
    functions: tuple[str, ...]


@dataclass(frozen=True)
class GuestState:
    """State of the kernel after a step.

    :ivar taint: /proc/sys/kernel/tainted.
    """

    taint: int
    livepatches: tuple[Livepatch, ...]

    @classmethod
    def parse(cls, text: str) -> GuestState:
        """Parse what `livepatches` of guest.sh wrote."""
        taint = 0
        found: list[Livepatch] = []
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "taint":
                taint = int(rest)
            elif word == "livepatch":
                name, enabled, transition = rest.split()
                found.append(Livepatch(name, enabled == "1", transition == "1", (), ()))
            elif word == "object":
                name, patched = rest.split()
                known = {"1": True, "0": False}.get(patched)
                found[-1] = replace(found[-1], objects=(*found[-1].objects, (name, known)))
            elif word == "function":
                function = f"{found[-1].objects[-1][0]}/{rest}"
                found[-1] = replace(found[-1], functions=(*found[-1].functions, function))
        return cls(taint, tuple(found))

    def livepatch(self, name: str) -> Livepatch | None:
        """Find a livepatch by its name."""
        return next((each for each in self.livepatches if each.name == name), None)

    @property
    def taint_letters(self) -> str:
        """The taint flags as the kernel's reports write them (kernel/panic.c, taint_flags)."""
        letters = "PFSRMBUDAWCIOELKXTN"
        return "".join(letter for bit, letter in enumerate(letters) if self.taint >> bit & 1)


@dataclass(frozen=True)
class StepResult:
    """Result of a step.

    :ivar exit_status: None when it did not come to an end.
    :ivar output: what it printed; for `Modprobe` and `Insmod` the error text.
    :ivar log: the kernel's log lines during the step and until the next one began.
    :ivar state: what sysfs showed after it.
    :ivar file: what a `FetchFile` brought out.
    :ivar problem: why it is not `Status.PASSED`; empty when it is.
    """

    planned: Planned
    status: Status
    exit_status: int | None = None
    output: str = ""
    log: tuple[LogLine, ...] = ()
    state: GuestState | None = None
    file: bytes = b""
    problem: str = ""

    @property
    def title(self) -> str:
        return self.planned.step.title

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in the kernel's log during the step: warnings, oopses."""
        return faults(self.log)


def judge(planned: Planned, exit_status: int, output: str, log: tuple[LogLine, ...]) -> str:
    """Explain why a step that ended is not as was asked for; empty when it is."""
    title = planned.step.title
    if planned.fails is False and exit_status != 0:
        said = [line.text for line in log if line.level <= _WARNING and "taint" not in line.text]
        reasons = [output.strip() or f"exit status {exit_status}", *said[:_REASONS_MAX]]
        return f"{title}: " + "\n".join(reasons)
    if planned.fails is True and exit_status == 0:
        return f"{title}: succeeded, and should have failed"
    for text in planned.output:
        if text not in output:
            return f"{title}: the output lacks {text!r}"
    for text in planned.log:
        if not any(text in line.text for line in log):
            return f"{title}: the kernel's log lacks {text!r}"
    # A stall may be the host's fault: emulation is slow, and other programs run.
    serious = [fault for fault in faults(log) if fault.kind is not FaultKind.STALL]
    if serious and not planned.warns:
        return f"{title}: the kernel reports: {serious[0].title}"
    return ""


@dataclass(frozen=True)
class GroupResult:
    """Result of a group.

    :ivar end: how the guest ended, if it did during this group.
    """

    group: Group
    steps: tuple[StepResult, ...]
    end: End | None = None

    @property
    def passed(self) -> bool:
        """Whether every step was run and gave what was asked of it."""
        return all(step.status is Status.PASSED for step in self.steps)

    @property
    def problem(self) -> str:
        """The first thing that went wrong; empty when nothing did."""
        return next((step.problem for step in self.steps if step.problem), "")

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in the kernel's log during the group."""
        return tuple(fault for step in self.steps for fault in step.faults)


@dataclass(frozen=True)
class BootResult:
    """Result of one boot.

    :ivar groups: the groups that were begun, in order; those after them were not run.
    :ivar boot_log: the kernel's log before the first step.
    :ivar command: QEMU's command line.
    """

    end: End
    groups: tuple[GroupResult, ...]
    boot_log: tuple[LogLine, ...]
    command: tuple[str, ...]
