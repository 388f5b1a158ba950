"""Examine the running kernel before a livepatch is loaded: what would stop it, what may."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Room that the kernel needs beside the module itself: pages, sysfs, ftrace; in bytes.
_ROOM = 4 << 20


@dataclass(frozen=True)
class Wanted:
    """A livepatch that is to be loaded.

    :ivar name: the module's name, ``livepatch_fix_1``.
    :ivar release: of the kernel that it is for; empty if it does not say.
    :ivar functions: object and name of each function that it replaces.
    :ivar size: of its sections in memory, in bytes.
    :ivar signed: whether it has a signature.
    """

    name: str
    release: str
    functions: tuple[tuple[str, str], ...]
    size: int
    signed: bool


@dataclass(frozen=True)
class Obstacle:
    """A condition that stops or may stop a load.

    :ivar stops: whether the load would fail; else it may go wrong, or wait.
    """

    what: str
    why: str
    hint: str
    stops: bool = True


@dataclass(frozen=True)
class Machine:
    """The running kernel, as /proc, /sys and debugfs show it.

    :ivar root: a directory in place of ``/``, for tests.
    """

    root: Path
    release: str

    @classmethod
    def this(cls) -> Machine:
        """Return this machine; LIVEPATCH_ROOT works as for the program ``livepatch``."""
        return cls(Path(os.environ.get("LIVEPATCH_ROOT") or "/"), platform.release())

    def text(self, *places: str) -> str:
        """Read the first of some small files that can be read; empty if none can."""
        for place in places:
            try:
                return (self.root / place).read_text(errors="replace").strip()
            except OSError:
                continue
        return ""

    def livepatched(self) -> frozenset[tuple[str, str]]:
        """List object and name of the functions that livepatches replace now."""
        found = (self.root / "sys/kernel/livepatch").glob("*/*/*,*")
        return frozenset((path.parent.name, path.name.partition(",")[0]) for path in found)

    def transitions(self) -> list[str]:
        """List the livepatches whose transition is under way."""
        found = sorted((self.root / "sys/kernel/livepatch").glob("*/transition"))
        return [path.parent.name for path in found if self.text(str(path)) == "1"]


def find_obstacles(wanted: Wanted, machine: Machine) -> tuple[Obstacle, ...]:
    """Find what stands in the way of a livepatch, as far as files of the kernel show it.

    What only root can read is left out for others.
    """
    return (*_of_the_machine(wanted, machine), *_of_functions(wanted, machine))


def _of_the_machine(wanted: Wanted, machine: Machine) -> Iterator[Obstacle]:
    if wanted.release and wanted.release != machine.release:
        yield Obstacle(
            f"is for Linux {wanted.release}, and {machine.release} runs",
            "It names functions and positions of the kernel that it was built for.",
            "Build it for the kernel that runs.",
        )
    if machine.text("proc/sys/kernel/modules_disabled") == "1":
        yield Obstacle(
            "the kernel loads no more modules",
            "kernel.modules_disabled is 1, which only a reboot changes.",
            "Reboot into the fixed kernel.",
        )
    locked = "[integrity]" in (said := machine.text("sys/kernel/security/lockdown"))
    locked = locked or "[confidentiality]" in said
    enforced = machine.text("sys/module/module/parameters/sig_enforce") == "Y"
    if (locked or enforced) and not wanted.signed:
        yield Obstacle(
            "is not signed, and this kernel loads signed modules only",
            "module.sig_enforce is set." if enforced else "The kernel is locked down.",
            "Sign it: SIGN_KEY= (docs/release.md).",
        )
    if machine.text("proc/sys/kernel/ftrace_enabled") == "0":
        yield Obstacle(
            "ftrace is off: the kernel would refuse the livepatch with EBUSY",
            "kernel.ftrace_enabled is 0, and livepatch needs ftrace (kernel/trace/ftrace.c, "
            "__register_ftrace_function).",
            "sysctl kernel.ftrace_enabled=1",
        )
    available = re.search(r"^MemAvailable: +(\d+) kB", machine.text("proc/meminfo"), re.MULTILINE)
    if available and (free := int(available[1]) << 10) < wanted.size + _ROOM:
        yield Obstacle(
            f"needs {(wanted.size + _ROOM) >> 10:,} kB, and {free >> 10:,} kB are available",
            "The module would not fit, or push out what runs.",
            "Free memory first.",
        )
    for name in machine.transitions():
        if name != wanted.name:
            yield Obstacle(
                f"the transition of {name} is under way",
                "The kernel works on one transition at a time.",
                "`klpbuild load` waits for it; `klpbuild status` shows what holds it up.",
                stops=False,
            )


def _of_functions(wanted: Wanted, machine: Machine) -> Iterator[Obstacle]:
    tracing = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
    held = _flags(machine.text(*(f"{place}/enabled_functions" for place in tracing)))
    probes = _probed(machine.text("sys/kernel/debug/kprobes/list"))
    failing = _named(machine.text("sys/kernel/debug/fail_function/inject"))
    patched = machine.livepatched()
    for owner, name in wanted.functions:
        shown = name if owner == "vmlinux" else f"{owner}:{name}"
        flags = held.get((owner, name), frozenset())
        if (owner, name) in patched:
            continue  # one ftrace_ops serves all livepatches of a function (klp_patch_func)
        if "I" in flags:
            by = "a kprobe with a post handler" if (owner, name) in probes else "a tracer"
            by = "fail_function" if name in failing else by
            yield Obstacle(
                f"{shown} is held by {by}: the kernel would refuse the livepatch with EBUSY",
                "Only one of them can change where a function goes (FTRACE_OPS_FL_IPMODIFY); "
                "enabled_functions shows the flag I.",
                "Take it away: /sys/kernel/debug/kprobes/list, .../fail_function/inject.",
            )
        elif (owner, name) in probes:
            yield Obstacle(
                f"{shown} has a kprobe at its entry",
                "A BPF program there may override what the function returns, also the new one's.",
                "`bpftool perf` shows BPF programs, /sys/kernel/debug/kprobes/list the kprobes.",
                stops=False,
            )
        elif "D" in flags:
            yield Obstacle(
                f"{shown} has a direct call, as of a BPF trampoline",
                "Kernels before 6.0 refuse both at one function with EBUSY; later ones share it.",
                "`bpftool link` shows the programs.",
                stops=False,
            )


#: A line of enabled_functions (kernel/trace/ftrace.c, t_show): the name, its module, how many
#: trace it, the flags.
_ENABLED = re.compile(r"^(\S+)(?: \[([\w-]+)\])? \((\d+)\)((?: +[RIDOM]\b)*)", re.MULTILINE)
#: A line of kprobes/list (kernel/kprobes.c, report_probe) for a function's ftrace entry.
_PROBE = re.compile(r"^\S+ +[kr] +([\w.]+)\+0x[0-9a-f]+ +(?:(\w+) )?.*\[FTRACE\]$", re.MULTILINE)


def _flags(text: str) -> dict[tuple[str, str], frozenset[str]]:
    return {
        (match[2] or "vmlinux", match[1]): frozenset(match[4].split())
        for match in _ENABLED.finditer(text)
    }


def _probed(text: str) -> frozenset[tuple[str, str]]:
    return frozenset((match[2] or "vmlinux", match[1]) for match in _PROBE.finditer(text))


def _named(text: str) -> frozenset[str]:
    """Collect the first word of each line."""
    lines: Iterable[list[str]] = (line.split() for line in text.splitlines())
    return frozenset(words[0] for words in lines if words)
