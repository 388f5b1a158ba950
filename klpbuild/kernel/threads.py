"""Find functions in which kernel threads stay, from how the shipped code starts them.

While a task is in a replaced function its transition does not end
(Documentation/livepatch/livepatch.rst, "Consistency model"), and the kernel can wake a kernel
thread but not make it return.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.files.kept import code_key, content_key, kept_or_made
from klpbuild.files.records import settled_state, while_unchanged
from klpbuild.kernel.code import Code
from klpbuild.kernel.flow import Body, Call

#: Functions that start a kernel thread with a function (kernel/kthread.c, kernel/fork.c).
STARTERS = (
    "__kthread_create_on_node", "_do_fork", "copy_process", "create_io_thread", "kernel_clone",
    "kernel_thread", "kthread_create_on_cpu", "kthread_create_on_node", "user_mode_thread",
    "vhost_task_create",
)  # fmt: skip
#: Keep a function and start threads with it later, which serve until they are told to end
#: (net/sunrpc/svc.c).
SERVERS = ("svc_create", "svc_create_pooled")
#: Asks whether the thread is to end (kernel/kthread.c).
ASKS = (
    "kthread_freezable_should_stop", "kthread_should_park", "kthread_should_stop",
    "kthread_should_stop_or_park",
)  # fmt: skip
#: Sleeps until something wakes the thread.
ENDLESS = ("io_schedule", "schedule", "schedule_preempt_disabled", "schedule_rtlock")
#: Sleeps, but not for ever, or sleeps in a loop of its own.
SLEEPS = (
    "down_interruptible", "io_schedule_timeout", "kthread_parkme", "msleep",
    "msleep_interruptible", "schedule_hrtimeout", "schedule_hrtimeout_range",
    "schedule_hrtimeout_range_clock", "schedule_timeout", "schedule_timeout_idle",
    "schedule_timeout_interruptible", "schedule_timeout_killable",
    "schedule_timeout_uninterruptible", "usleep_range", "usleep_range_state",
    "wait_for_completion", "wait_for_completion_interruptible",
    "wait_for_completion_interruptible_timeout", "wait_for_completion_killable",
    "wait_for_completion_killable_timeout", "wait_for_completion_timeout", "wait_woken",
)  # fmt: skip
#: Begins to wait in the state that is the third argument (kernel/sched/wait.c, swait.c).
_PREPARES = (
    "prepare_to_swait_event", "prepare_to_swait_exclusive", "prepare_to_wait",
    "prepare_to_wait_event", "prepare_to_wait_exclusive",
)  # fmt: skip
#: Ends that (kernel/sched/wait.c, swait.c).
_ENDS = ("finish_swait", "finish_wait")
#: TASK_UNINTERRUPTIBLE: what is waited for comes soon, the kernel reports longer waits
#: (kernel/hung_task.c).
_UNINTERRUPTIBLE = 2
#: Depth of calls below a thread's first function in which it may wait.
_DEPTH = 3


class Threads:
    """The kernel threads of vmlinux or of a module."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._starters = code.named(STARTERS)
        self._servers = code.named(SERVERS)
        self._asks = code.named(ASKS)
        self._endless = code.named(ENDLESS)
        self._sleeps = self._endless | code.named(SLEEPS)
        self._schedules = code.named(n for n in (*ENDLESS, *SLEEPS) if "schedule" in n)
        self._prepares = code.named(_PREPARES)
        self._ends = code.named(_ENDS)

    @classmethod
    @while_unchanged
    def read(cls, path: Path) -> Threads:
        """Read the threads of a binary; the same file is read once.

        :raises KlpError: when it cannot be read, or is for another architecture than x86-64.
        """
        return cls(Code(ElfFile.read(path)))

    @classmethod
    def staying(cls, path: Path, section: str, offset: int, cache: Path) -> str:
        """Explain as `stay` does for a function of a binary, once for the same file.

        :param cache: the kernel's directory for what klpbuild learns of it.
        :raises KlpError: as `read`.
        """
        state = settled_state(path)
        if state is None:
            return cls.read(path).stay(section, offset)
        name = content_key(str(path), section, str(offset)).hex()[:16]
        key = content_key(str(path), section, str((offset, state)), code_key())

        def ask() -> str:
            return cls.read(path).stay(section, offset)

        return kept_or_made(cache / "threads" / name, key, ask, str.encode, bytes.decode)

    def stay(self, section: str, offset: int) -> str:
        """Explain how a kernel thread comes to stay in a function; empty when none does.

        :param section: the function's section in a module; vmlinux' functions need none.
        :param offset: in the section, in vmlinux the address.
        :returns: words such as ``create_worker() starts one with it``.
        """
        place = self._code.place(section, offset)
        if place in self._schedules:
            return "all that wait do so in it"
        if not self._may_stay(place):
            return ""
        if place in self._begun:
            if self._stays_in_thread(place):
                return f"{self._code.name(self._begun[place])}() starts one with it"
            return ""
        for thread in self._threads_above(place):
            if any(self._waits_for(thread, each) for each in (place, *self._below(place))):
                starter = self._code.name(self._begun[thread])
                return f"{starter}() starts one with {self._code.name(thread)}(), which calls it"
        if self._asks_unnamed(place):
            return "it asks whether its thread is to end"
        if self._is_endless(place):
            return "it sleeps again and again, and does not return"
        if any(map(self._serves, (place, *self._below(place)))):
            for item in self._items_above(place):
                if item == place:
                    return "it is a work item that waits again and again"
                return f"a work item that waits again and again calls it: {self._code.name(item)}()"
        relay = self._relay_to(place)
        if relay is not None:
            return f"{self._code.name(relay)}(), which threads begin with, calls what it is given"
        return ""

    def _may_stay(self, place: int) -> bool:
        """Tell quickly whether a thread that runs a function could stay in it."""
        return (
            self._sleeps_in_loop(place)
            or not self._code.body(place).returns
            or any(call.of_argument for call in self._code.body(place).calls)
            or bool(self._servers)
            or any(self._waits(each) for each in self._below(place))
        )

    def _sleeps_in_loop(self, place: int) -> bool:
        """Tell whether a function has a loop that sleeps or asks whether the thread is to end."""
        for calls in self._code.body(place).called_in_loops():
            targets = {call.target for call in calls if call.target is not None}
            if targets & (self._sleeps | self._asks):
                return True
            if any(self._asks & self._code.body(target).targets for target in targets):
                return True
        return False

    # -- what threads begin with

    @cached_property
    def _begun(self) -> dict[int, int]:
        """The functions that threads begin with, and the function that starts each."""
        found: dict[int, int] = {}
        starters = self._starters | self._servers
        done: set[int] = set()
        while pending := self._code.callers(starters) - done:
            for caller in sorted(pending):
                done.add(caller)
                given = self._given(self._code.body(caller), starters)
                for function in given:
                    if self._code.defines(function):
                        found.setdefault(function, caller)
                if not given:  # what it is given itself
                    starters |= {caller}
        return found

    @staticmethod
    def _given(body: Body, starters: frozenset[int]) -> frozenset[int]:
        """Collect the functions that threads are started with: arguments, or what is stored."""
        calls = [call for call in body.calls if call.target in starters]
        return frozenset(f for call in calls for f in call.given) or body.addresses

    @cached_property
    def _served(self) -> frozenset[int]:
        """The functions that threads serve with."""
        bodies = map(self._code.body, self._code.callers(self._servers))
        calls = (call for body in bodies for call in body.calls if call.target in self._servers)
        return frozenset(function for call in calls for function in call.given)

    def _stays_in_thread(self, thread: int) -> bool:
        """Tell whether a thread stays in the function that it begins with."""
        # Whatever it is given to call may not come back.
        calls = self._code.body(thread).calls
        return self._waits_in(thread) or any(call.of_argument for call in calls)

    def _waits_in(self, thread: int) -> bool:
        """Tell whether a thread waits in a function, or in one that this calls, again and again."""
        body = self._code.body(thread)
        if self._sleeps_in_loop(thread):
            return True
        if any(body.called_in_loops()) and (thread in self._served or not body.returns):
            return True
        return any(self._waits_for(thread, each) for each in self._below(thread))

    # -- what these call

    def _below(self, place: int) -> Iterator[int]:
        """Walk down the calls to functions of the same source file."""
        seen, level = {place}, {place}
        for _ in range(_DEPTH):
            bodies = map(self._code.body, sorted(level))
            called = {target for body in bodies for target in body.targets}
            level = {each for each in called - seen if self._code.is_local(each)}
            seen |= level
            yield from sorted(level)

    def _threads_above(self, place: int) -> Iterator[int]:
        """Find the functions of threads that reach a function by calls in its source file."""
        seen, level = {place}, {place}
        for _ in range(_DEPTH):
            level = {each for each in level if self._code.is_local(each)}
            level = set(self._code.callers(level)) - seen if level else set()
            seen |= level
            yield from sorted(level & self._begun.keys())
            level -= self._begun.keys()

    def _items_above(self, place: int) -> Iterator[int]:
        """Find the work items that are a function, or reach it by calls in its source file."""
        seen, level = {place}, {place}
        for _ in range(_DEPTH + 1):
            yield from filter(self._code.is_work, sorted(level))
            level = {each for each in level if self._code.is_local(each)}
            level = set(self._code.callers(level)) - seen if level else set()
            seen |= level

    def _serves(self, place: int) -> bool:
        """Tell whether a function waits without a time limit again and again.

        One wait alone is a loop, too: it ends before finish_wait().
        """
        loops = [{call.target for call in calls} for calls in self._waits(place)]
        return any(targets & (self._ends | self._asks) for targets in loops)

    def _waits_for(self, thread: int, place: int) -> bool:
        """Tell whether a thread waits for work in a function that it calls.

        It does not if it waits for work in the function that it begins with, unless the
        other one asks while it waits whether the thread is to end.
        """
        waits = self._waits(place)
        if any(self._asks & {call.target for call in calls} for calls in waits):
            return True
        return bool(waits) and not self._waits(thread)

    def _waits(self, place: int) -> list[tuple[Call, ...]]:
        """Find the loops in which a function sleeps until there is something to do."""
        return [
            calls
            for calls in self._code.body(place).called_in_loops()
            if self._endless & {call.target for call in calls} and not self._is_short(calls)
        ]

    def _is_short(self, calls: tuple[Call, ...]) -> bool:
        states = [call.third for call in calls if call.target in self._prepares]
        return bool(states) and all(state == _UNINTERRUPTIBLE for state in states)

    def _asks_unnamed(self, place: int) -> bool:
        """Tell whether a function that is only reached through a pointer is one of a thread."""
        loops = self._code.body(place).called_in_loops()
        if not any(self._asks & {call.target for call in calls} for calls in loops):
            return False
        return not self._code.callers({place}) and not self._code.is_exported(place)

    def _is_endless(self, place: int) -> bool:
        """Tell whether a function that is only reached through a pointer sleeps and never ends."""
        if self._code.body(place).returns or not self._sleeps_in_loop(place):
            return False
        return not self._code.callers({place}) and not self._code.is_exported(place)

    def _relay_to(self, place: int) -> int | None:
        """Find a thread that may get a function of its module in what it is given.

        The function waits like a thread, code stores its address, and nothing calls it by its name.
        """
        if self._code.is_linked or not self._relays or not self._waits_in(place):
            return None
        if self._code.callers({place}) or self._code.is_exported(place):
            return None
        if self._code.is_work(place):  # do_submit() of drbd
            return None
        return min(self._relays) if place in self._stored else None

    @cached_property
    def _relays(self) -> frozenset[int]:
        """The functions that threads begin with, and that call what their argument points to."""
        return frozenset(
            thread
            for thread in self._begun
            if any(call.of_argument for call in self._code.body(thread).calls)
        )

    @cached_property
    def _stored(self) -> frozenset[int]:
        """The functions whose addresses are in code."""
        bodies = map(self._code.body, self._code.functions)
        return frozenset(address for body in bodies for address in body.addresses)
