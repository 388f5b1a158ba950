"""Boot a guest, have it do the steps, and report the result of each."""

from __future__ import annotations

import gzip
import shlex
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.distro.parts import Part
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from klpbuild.kernel.lacking import how_to_get
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.accelerator import choose_accelerator
from klpbuild.vm.channel import Record, RecordReader, Word
from klpbuild.vm.initramfs import build_initramfs
from klpbuild.vm.log import Fault, FaultKind, LogLine, by_step, faults, parse
from klpbuild.vm.machine import machine_for
from klpbuild.vm.modules import GuestModules
from klpbuild.vm.qemu import QemuExit, qemu_command, run
from klpbuild.vm.result import BootResult, End, GroupResult, GuestState, Status, StepResult, judge
from klpbuild.vm.scenario import Group, Planned

#: Seconds without a word of the guest after which it is given up.  A step that waits for a
#: transition may take `scenario.TRANSITION_SECONDS`; under emulation on a busy computer a
#: second of the guest is several of ours.
QUIET_LIMIT = 240.0

Started = Callable[[Group], None]
Progress = Callable[[GroupResult], None]


@dataclass(frozen=True)
class Guest:
    """How guests are booted.

    :ivar kernel: the kernel.
    :ivar directory: keeps ``console-N.log`` (the kernel's log) of each boot and the initramfs;
        None for a temporary one.
    :ivar quiet_limit: seconds without a word after which a guest is given up.
    :ivar processors: how many the guest has.
    """

    kernel: Kernel
    directory: Path | None = None
    quiet_limit: float = QUIET_LIMIT
    processors: int = 2

    def boot(
        self, groups: Sequence[Group], number: int = 1, started: Started = lambda group: None
    ) -> BootResult:
        """Boot once and do groups of steps.

        :param groups: what to do; the guest stops before the end when a group leaves a
            livepatch behind, or when it dies.
        :param number: of the boot, for the names of its files.
        :param started: called with each group when the guest begins it.
        :returns: the results of the groups that were begun.
        :raises KlpError: when the guest cannot be booted: a missing program, a missing module,
            or a kernel that dies before the first step.
        """
        kernel, plan = self.kernel, tuple(groups)
        machine = machine_for(kernel.arch)
        if kernel.image is None:
            raise KlpError(
                "has no bootable image", where=kernel.name, hint=how_to_get(kernel, Part.IMAGE)
            )
        archive = build_initramfs(kernel, machine, plan, GuestModules.of(kernel))
        with ExitStack() as stack:
            directory = self.directory
            if directory is None:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory("-klpbuild-vm")))
            initramfs = directory / f"initramfs-{number}.cpio"
            console = directory / f"console-{number}.log"
            write_file(initramfs, archive)
            stack.callback(initramfs.unlink)
            command = qemu_command(
                machine,
                accelerator=choose_accelerator(machine, kernel.image),
                image=kernel.image,
                initramfs=initramfs,
                console=console,
                memory=memory_for(len(archive)),
                processors=self.processors,
            )
            write_file(console, b"")
            told = _Told(_first_steps(plan), started)
            ended = run(command, told.receive, self.quiet_limit)
            log = parse(console.read_bytes())
        return _Report(self, plan, told, ended, log, command).result()

    def run(
        self,
        groups: Sequence[Group],
        progress: Progress = lambda result: None,
        started: Started = lambda group: None,
    ) -> tuple[GroupResult, ...]:
        """Run all groups, in as many boots as it takes.

        A group during which the guest dies, or which leaves a livepatch behind, is the last
        of its boot; the next boot goes on after it.

        :param progress: called with the result of each group, after the boot it was in.
        :param started: called with each group when a guest begins it.
        :returns: one result for each group, in order.
        :raises KlpError: as `boot`.
        """
        results: list[GroupResult] = []
        number = 0
        while len(results) < len(groups):
            number += 1
            for result in self.boot(groups[len(results) :], number, started).groups:
                results.append(result)
                progress(result)
        return tuple(results)


def memory_for(size: int) -> int:
    """Compute the memory of a guest, MiB.

    The archive is there twice while it is unpacked, and the root file system may fill half
    of the memory (fs/ramfs and mm/shmem.c: the default size limit of tmpfs).

    :param size: of the initramfs, bytes.
    """
    return max(1024, 512 + 3 * (size >> 20))


def _first_steps(groups: tuple[Group, ...]) -> dict[int, Group]:
    found, number = {}, 0
    for group in groups:
        if group.steps:
            found[number] = group
        number += len(group.steps)
    return found


@dataclass
class _Told:
    """Records that the guest sent over the channel.

    :ivar first_steps: number of a group's first step to the group.
    """

    first_steps: dict[int, Group]
    started: Started
    release: str = ""
    begun: list[int] = field(default_factory=list)
    skipped: set[int] = field(default_factory=set)
    ends: dict[int, Record] = field(default_factory=dict)
    states: dict[int, GuestState] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    last: Word | None = None
    reader: RecordReader = field(default_factory=RecordReader)

    def receive(self, data: bytes) -> None:
        for record in self.reader.feed(data):
            self.last = record.word
            match record.word:
                case Word.READY:
                    self.release = record.payload.decode(errors="replace").strip()
                case Word.BEGIN:
                    self.begun.append(record.number)
                    if group := self.first_steps.get(record.number):
                        self.started(group)
                case Word.SKIP:
                    self.skipped.add(record.number)
                case Word.STATE:
                    text = record.payload.decode(errors="replace")
                    self.states[record.number] = GuestState.parse(text)
                case Word.FILE:
                    self.files[record.number] = record.payload
                case Word.END:
                    self.ends[record.number] = record
                case Word.DONE | Word.UNCLEAN:
                    pass


@dataclass(frozen=True)
class _Report:
    """Combines the guest's records and its kernel's log into results."""

    guest: Guest
    groups: tuple[Group, ...]
    told: _Told
    ended: QemuExit
    log: tuple[LogLine, ...]
    command: tuple[str, ...]

    def result(self) -> BootResult:
        end, reason = self._end()
        if not self.told.release:
            raise self._not_booted(reason)
        if self.told.release != self.guest.kernel.release:
            raise KlpError(
                f"boots as release {self.told.release}",
                where=str(self.guest.kernel.image),
                why=f"The kernel's headers are of {self.guest.kernel.release}.",
                hint="Fetch the image and the headers of the same release.",
            )
        logs = by_step(self.log)
        results: list[GroupResult] = []
        number = 0
        for group in self.groups:
            steps = []
            for planned in group.planned:
                steps.append(self._step(number, planned, logs.get(number, ()), reason))
                number += 1
            if all(step.status is Status.NOT_RUN for step in steps) and results:
                break
            results.append(GroupResult(group, tuple(steps)))
        if end is not End.DONE and results:
            last = results[-1]
            results[-1] = GroupResult(last.group, last.steps, end)
        return BootResult(end, tuple(results), logs[None], self.command)

    def _step(
        self, number: int, planned: Planned, log: tuple[LogLine, ...], reason: str
    ) -> StepResult:
        told = self.told
        if number in told.ends:
            exit_status = told.ends[number].value
            output = told.ends[number].payload.decode(errors="replace")
            problem = judge(planned, exit_status, output, log)
            return StepResult(
                planned,
                Status.FAILED if problem else Status.PASSED,
                exit_status,
                output,
                log,
                told.states.get(number),
                _uncompressed(told.files.get(number, b"")),
                problem,
            )
        title = planned.step.title
        if number in told.skipped:
            problem = f"{title}: skipped, for an earlier step failed"
            return StepResult(planned, Status.SKIPPED, problem=problem)
        if number in told.begun:
            return StepResult(planned, Status.LOST, log=log, problem=f"{title}: {reason}")
        return StepResult(planned, Status.NOT_RUN, problem=f"{title}: not run: {reason}")

    def _end(self) -> tuple[End, str]:
        """Tell how the guest ended, and say it in words."""
        if self.told.last is Word.DONE:
            return End.DONE, ""
        if self.told.last is Word.UNCLEAN:
            return End.UNCLEAN, "an earlier group left a livepatch behind"
        fatal = _fatal(self.log)
        if fatal is not None:
            end = End.PANIC if fatal.kind is FaultKind.PANIC else End.OOPS
            word = "panicked" if end is End.PANIC else "oopsed"
            return end, f"the guest's kernel {word}: {fatal.title}"
        if self.ended.timed_out:
            words = f"the guest said nothing for {self.guest.quiet_limit:g} s and was ended"
            return End.TIME_LIMIT, "\n".join([words, *(f.title for f in faults(self.log))])
        words = f"QEMU vanished with exit status {self.ended.status}"
        return End.VANISHED, "\n".join([words, *self.ended.messages.splitlines()])

    def _not_booted(self, reason: str) -> KlpError:
        fatal = _fatal(self.log)
        return KlpError(
            f"does not boot: {reason or 'its init ended without a word'}",
            where=str(self.guest.kernel.image),
            why="\n".join(str(line) for line in fatal.lines) if fatal else "",
            hint="QEMU was run with:\n" + shlex.join(self.command),
        )


def _fatal(log: tuple[LogLine, ...]) -> Fault | None:
    """Find what killed the kernel: the first oops, else the panic."""
    found = faults(log)
    if not any(fault.kind in (FaultKind.PANIC, FaultKind.OOPS) for fault in found):
        return None
    oopses = [fault for fault in found if fault.kind is FaultKind.OOPS]
    return (oopses or [fault for fault in found if fault.kind is FaultKind.PANIC])[0]


def _uncompressed(data: bytes) -> bytes:
    try:
        return gzip.decompress(data) if data else b""
    except (OSError, EOFError, zlib.error):
        return b""
