"""Define what a guest does: groups of steps, and what each step must show."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ClassVar

from klpbuild.elf.modinfo import modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.module.livepatch import STAYS_TAG
from klpbuild.names import object_name

#: A task that sleeps in a livepatched function gets a signal every 15 s
#: (SIGNALS_TIMEOUT of kernel/livepatch/transition.c); three of them must do.
TRANSITION_SECONDS = 60


@dataclass(frozen=True)
class GuestFiles:
    """Paths in the guest of the files that steps name.

    :ivar livepatch: the guest's path of a module file of the host.
    :ivar load: the guest's paths of the files to load for a module of the kernel, in order.
    """

    livepatch: Callable[[Path], str]
    load: Callable[[str], tuple[str, ...]]


@dataclass(frozen=True)
class Step:
    """One command for the guest; it passes when its exit status is 0.

    Its fields are the arguments of the guest's function.

    :cvar says: what it does, in a few words.
    :cvar function: name of the function in guest.sh.
    """

    says: ClassVar[str]
    function: ClassVar[str]

    @property
    def title(self) -> str:
        """What it does, in a few words."""
        return self.says.format(self)

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        """Return the guest's function (see guest.sh) and its arguments."""
        return (self.function, *(str(argument) for argument in astuple(self)))

    @property
    def module_file(self) -> Path | None:
        """A module file of the host that the guest needs."""
        return None

    @property
    def kernel_module(self) -> str | None:
        """A module of the kernel that the guest needs."""
        return None


@dataclass(frozen=True)
class ReadFile(Step):
    """Read a file; the step's output is what it holds."""

    path: str
    says, function = "read {0.path}", "read_file"


@dataclass(frozen=True)
class ReadRedirected(Step):
    """Read which functions ftrace redirects."""

    path: str = "/sys/kernel/tracing/enabled_functions"
    says, function = "read which functions are redirected", "read_file"


@dataclass(frozen=True)
class FetchFile(Step):
    """Bring out a file of several MB; it goes into the result's `file`, not its output."""

    path: str
    says, function = "fetch {0.path}", "fetch"


@dataclass(frozen=True)
class WriteFile(Step):
    """Write a text to a file, as it is."""

    path: str
    text: str
    says, function = "write {0.path}", "write_file"


@dataclass(frozen=True)
class Insmod(Step):
    """Load a module file of the host.

    :param parameters: its module parameters, ``name=value`` each.
    """

    module: Path
    parameters: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return " ".join(["insmod", self.module.name, *self.parameters])

    @property
    def module_file(self) -> Path:
        return self.module

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        return ("insert", files.livepatch(self.module), *self.parameters)


@dataclass(frozen=True)
class Rmmod(Step):
    """Unload a module.

    :param if_loaded: pass, too, when it is not loaded.
    """

    name: str
    if_loaded: bool = False
    says = "rmmod {0.name}"

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        return ("remove_if_loaded" if self.if_loaded else "remove", self.name)


@dataclass(frozen=True)
class Modprobe(Step):
    """Load a module of the kernel and those that it needs; one that is there is left alone."""

    name: str
    says = "modprobe {0.name}"

    @property
    def kernel_module(self) -> str:
        return self.name

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        return ("load", *files.load(self.name))


@dataclass(frozen=True)
class WaitEnabled(Step):
    """Wait until the transition to a livepatch has ended and it is enabled.

    When it does not end, the output names the tasks that have not switched, with their stacks.
    """

    name: str
    seconds: int = TRANSITION_SECONDS
    says, function = "wait for the transition to {0.name}", "wait_enabled"


@dataclass(frozen=True)
class Disable(Step):
    """Begin the transition away from a livepatch.

    :param if_loaded: pass, too, when it is not loaded any more: a later one with ``replace``
        may have taken its place.
    """

    name: str
    if_loaded: bool = False
    says = "disable {0.name}"

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        return ("disable_if_loaded" if self.if_loaded else "disable", self.name)


@dataclass(frozen=True)
class WaitDisabled(Step):
    """Wait until the kernel has let go of a disabled livepatch, so that it can be unloaded.

    :param stays: 1 when it holds itself.
    """

    name: str
    seconds: int = TRANSITION_SECONDS
    stays: int = 0
    says, function = "wait for the transition from {0.name}", "wait_disabled"


@dataclass(frozen=True)
class Shell(Step):
    """Run a line of busybox shell."""

    line: str
    says, function = "$ {0.line}", "shell"


@dataclass(frozen=True)
class Planned:
    """A step of a group with its expected outcome.

    :param fails: True when it must fail, None when either is right.
    :param output: texts that its output must hold.
    :param log: texts that the kernel's log during the step must hold, each in one line.
    :param warns: True when a warning or worse in the kernel's log is no failure.
    :param always: run it even when an earlier step of the group failed: it cleans up.
    """

    step: Step
    fails: bool | None = False
    output: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    warns: bool = False
    always: bool = False


@dataclass(frozen=True)
class Group:
    """Steps that stand or fall together: once one fails, the usual ones are skipped.

    A group must leave no livepatch behind: a guest where one stays does not go on to the
    next group (another boot does).

    :param name: what the group is called in reports.
    """

    name: str
    steps: tuple[Planned | Step, ...]

    @property
    def planned(self) -> tuple[Planned, ...]:
        """The steps, each with what is asked of it."""
        return tuple(s if isinstance(s, Planned) else Planned(s) for s in self.steps)


def load_and_unload(module: Path, modules: tuple[str, ...] = ()) -> Group:
    """Make the group that tries one livepatch: load, end of transition, disable, unload.

    :param module: the livepatch.
    :param modules: modules of the kernel to load before it.
    :raises KlpError: when the file is not a module.
    """
    name = module_name(module)
    return Group(
        name,
        (
            *(Modprobe(each) for each in modules),
            Insmod(module),
            WaitEnabled(name),
            *unload(module, name),
        ),
    )


def unload(path: Path, name: str) -> tuple[Planned, ...]:
    """List the steps that disable and unload a livepatch; that may fail for one that stays."""
    stays = holds_itself(path)
    return (
        # One with `replace` has disabled those before it.
        Planned(Disable(name, if_loaded=True), always=True),
        Planned(WaitDisabled(name, stays=int(stays)), always=True),
        Planned(Rmmod(name, if_loaded=True), always=True, fails=None if stays else False),
    )


def holds_itself(path: Path) -> bool:
    """Tell whether a livepatch stays loaded when it is disabled: see `STAYS_TAG`.

    :raises KlpError: when it is not ELF.
    """
    return STAYS_TAG in modinfo(ElfFile.read(path))


def module_name(path: Path) -> str:
    """Read the kernel's name of a module file: from its ``.modinfo``, else from the file name.

    :raises KlpError: when the file cannot be read or is not ELF.
    """
    names = modinfo(ElfFile.read(path)).get("name")
    return names[0] if names else object_name(path.name)


def script(groups: tuple[Group, ...], files: GuestFiles) -> str:
    """Write the guest's ``steps``: one call of a function of guest.sh a line.

    Steps are numbered from 0 through all groups.
    """
    lines = []
    number = 0
    for group in groups:
        lines.append("group")
        for planned in group.planned:
            when = "always" if planned.always else "usual"
            wanted = {False: "pass", True: "fail", None: "any"}[planned.fails]
            command = shlex.join(planned.step.command(files))
            lines.append(f"step {number} {when} {wanted} {command}")
            number += 1
        lines.append("end_group")
    return "\n".join(lines) + "\n"


def module_files(groups: tuple[Group, ...]) -> tuple[Path, ...]:
    """List the module files of the host that the steps load, each once."""
    found = (planned.step.module_file for planned in _all(groups))
    return tuple(dict.fromkeys(path for path in found if path is not None))


def kernel_modules(groups: tuple[Group, ...]) -> tuple[str, ...]:
    """List the modules of the kernel that the steps load, each once."""
    found = (planned.step.kernel_module for planned in _all(groups))
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _all(groups: tuple[Group, ...]) -> Iterator[Planned]:
    for group in groups:
        yield from group.planned
