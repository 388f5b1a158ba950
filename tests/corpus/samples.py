"""The sample: patches of our own, what each changes, and how a guest shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    Shell,
    Step,
    WaitDisabled,
    WaitEnabled,
    module_name,
)

PATCHES = Path(__file__).parent / "patches"

Seen = tuple[str, str, str]


@dataclass(frozen=True)
class Sample:
    """A patch and what it does.

    :ivar name: of the patch.
    :ivar functions: what it replaces, ``object/function``.
    :ivar look: a line of shell, run before the livepatch is loaded, with it and after it.
    :ivar right: whether what `look` printed at these times is as it should be.
    :ivar modules: of the kernel, loaded before.
    :ivar late: of the kernel, loaded after the livepatch.
    :ivar prepare: a line of shell, run before all else, once the modules are loaded.
    :ivar log: what the kernel's log must hold while the livepatch is loaded.
    """

    name: str
    functions: tuple[str, ...]
    look: str
    right: Callable[[str, str, str], bool]
    modules: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    prepare: str = ""
    log: tuple[str, ...] = ()
    extra: tuple[Planned | Step, ...] = field(default=())

    @property
    def patch(self) -> Path:
        return PATCHES / f"{self.name}.patch"

    def group(self, module: Path) -> Group:
        """Load, look, unload, look."""
        name = module_name(module)
        steps: list[Planned | Step] = [Modprobe(each) for each in self.modules]
        if self.prepare:
            steps.append(Shell(self.prepare))
        steps += [Shell(self.look), Insmod(module), WaitEnabled(name)]
        steps += [Modprobe(each) for each in self.late]
        steps += [Planned(Shell(self.look), log=self.log, warns=bool(self.log)), *self.extra]
        steps += [
            Planned(Disable(name), always=True),
            Planned(WaitDisabled(name), always=True),
            Planned(Rmmod(name), always=True),
            Shell(self.look),
        ]
        return Group(self.name, tuple(steps))


def shows(text: str) -> Callable[[str, str, str], bool]:
    """A text is seen with the livepatch, and only then."""
    return lambda before, patched, after: (
        text in patched and text not in before and text not in after
    )


def _loadavg(before: str, patched: str, after: str) -> bool:
    return "reads" not in before + after and patched.endswith("reads 101\n")


def _upper_case(before: str, patched: str, after: str) -> bool:
    return before == after and patched == before.upper() != before


def _many_processes(before: str, patched: str, after: str) -> bool:
    return int(before) < 10000 <= int(patched) and int(after) < 10000


SAMPLES = (
    Sample("new-function", ("vmlinux/loadavg_proc_show",), "cat /proc/loadavg", _loadavg),
    Sample(
        "warning",
        ("vmlinux/version_proc_show",),
        "cat /proc/version",
        shows("warned"),
        log=("WARNING: ", "version is read in 4096 bytes"),
    ),
    Sample(
        "static-key",
        ("vmlinux/uptime_proc_show",),
        "cat /proc/uptime",
        shows("statistics off"),
        extra=(
            Shell("echo 1 > /proc/sys/kernel/sched_schedstats"),
            Planned(Shell("cat /proc/uptime"), output=("statistics on",)),
            Shell("echo 0 > /proc/sys/kernel/sched_schedstats"),
            Planned(Shell("cat /proc/uptime"), output=("statistics off",)),
        ),
    ),
    Sample("user-access", ("vmlinux/read_zero",), "head -c 3 /dev/zero | od -c", shows("K  \\0")),
    Sample(
        "exception-table",
        ("vmlinux/show_softirqs",),
        "tail -n 1 /proc/softirqs",
        shows("fault handled"),
    ),
    Sample(
        "static-local",
        ("vmlinux/proc_do_uuid",),
        "cat /proc/sys/kernel/random/boot_id",
        _upper_case,
    ),
    Sample(
        "through-pointer", ("vmlinux/show_console_dev",), "cat /proc/consoles", shows("first tty")
    ),
    Sample("per-cpu", ("vmlinux/nr_processes",), "stat -c %h /proc", _many_processes),
    Sample(
        "exported",
        ("vmlinux/param_get_bool",),
        "cat /sys/module/printk/parameters/ignore_loglevel",
        lambda before, patched, after: (before, patched, after) == ("N\n", "no\n", "N\n"),
    ),
    Sample(
        "system-call",
        ("vmlinux/__ia32_sys_newuname", "vmlinux/__x64_sys_newuname"),
        "uname -n",
        shows("livepatched"),
    ),
    Sample(
        "header",
        ("vmlinux/proc_fd_link", "vmlinux/seq_show", "vmlinux/tid_fd_revalidate"),
        "readlink /proc/self/fd/9 9</proc/version </proc/uptime",
        lambda before, patched, after: (
            (before, patched, after) == ("/proc/version\n", "/proc/uptime\n", "/proc/version\n")
        ),
    ),
    Sample(
        "two-objects",
        ("8021q/vlan_seq_show", "vmlinux/show_console_dev"),
        "cat /proc/net/vlan/config /proc/consoles",
        lambda before, patched, after: (
            "Name-Type" in before + after
            and "Name-Type" not in patched
            and "Type of name: VLAN" in patched
            and " seen\n" in patched
            and " seen\n" not in before + after
        ),
        modules=("8021q",),
        extra=(
            # Kernels before 6.3 keep what a livepatch wrote into a module's relocations.
            Rmmod("8021q"),
            Modprobe("8021q"),
            Planned(Shell("cat /proc/net/vlan/config"), output=("Type of name: VLAN",)),
        ),
    ),
    Sample(
        "module",
        ("md_mod/md_seq_show",),
        "cat /proc/mdstat",
        shows("Personalities : none"),
        modules=("md_mod",),
        log=("WARNING: CPU: ",),
    ),
    Sample(
        "module-of-module",
        ("fscache/fscache_stats_show",),
        "cat /proc/fs/fscache/stats",
        lambda before, patched, after: (
            shows("traced")(before, patched, after) and "RdHelp" in patched
        ),
        modules=("fscache",),
    ),
    Sample(
        "shadow-variable",
        ("vmlinux/filesystems_proc_show",),
        "tail -n 1 /proc/filesystems",
        shows("reading 1"),
        extra=(Planned(Shell("tail -n 1 /proc/filesystems"), output=("reading 2",)),),
    ),
    Sample("new-file", ("vmlinux/devinfo_show",), "cat /proc/devices", shows("* Character")),
    Sample(
        "new-objects",
        ("8021q/vlan_seq_show", "vmlinux/cmdline_proc_show"),
        "cat /proc/cmdline /proc/net/vlan/config",
        lambda before, patched, after: (
            " [read 1, /proc]\n8021q, network " in patched and "[read" not in before + after
        ),
        modules=("8021q",),
    ),
)
