"""Ask a kernel itself what its symbols are and which functions can be livepatched.

One boot brings out ``/proc/kallsyms`` and tracefs' ``available_filter_functions``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.records import sealed, write_sealed
from klpbuild.kernel.cache import locked
from klpbuild.kernel.tree import FILTER_FUNCTIONS, KALLSYMS, Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import StepResult
from klpbuild.vm.scenario import FetchFile, Group, WriteFile

_IN_GUEST = {
    KALLSYMS: "/proc/kallsyms",
    FILTER_FUNCTIONS: f"/sys/kernel/tracing/{FILTER_FUNCTIONS}",
}
#: What is not of vmlinux: a symbol of a module, or of what the kernel makes while it runs,
#: ends in ``[owner]``; the other is ftrace's name for an entry call that lost its function
#: (kernel/trace/ftrace.c, FTRACE_INVALID_FUNCTION).
_LEFT_OUT = re.compile(rb"[^\n]*\]\n|__ftrace_invalid_address__[^\n]*\n")
_SYMBOL = re.compile(rb"[0-9a-f]{8,16} [A-Za-z?] [^\s]+\n?")


@dataclass(frozen=True)
class Learned:
    """Files that a kernel wrote about itself; both hold only what belongs to vmlinux.

    :ivar kallsyms: lines ``address type name``, by address, which is the linked one.
    :ivar filter_functions: a function that ftrace can hook a line.
    """

    kallsyms: Path
    filter_functions: Path


def learn(kernel: Kernel) -> Learned:
    """Read a kernel's symbols and traceable functions; boot it unless they are in its cache.

    Nothing is written unless both are there.

    :param kernel: a kernel with an image.
    :raises KlpError: when it cannot be booted, or does not show them.
    """
    learned = Learned(kernel.cache / KALLSYMS, kernel.cache / FILTER_FUNCTIONS)
    with locked(kernel.cache / "probe"):
        if not (sealed(learned.kallsyms) and sealed(learned.filter_functions)):
            contents = dict(_ask(kernel))
            write_sealed(learned.filter_functions, contents[FILTER_FUNCTIONS])
            write_sealed(learned.kallsyms, contents[KALLSYMS])
    return learned


def _ask(kernel: Kernel) -> Iterator[tuple[str, bytes]]:
    steps = tuple(FetchFile(path) for path in _IN_GUEST.values())
    # Without it the kernel shows addresses of 0 (kernel/kallsyms.c, kallsyms_show_value).
    show = WriteFile("/proc/sys/kernel/kptr_restrict", "0")
    group = Group("probe", (show, *steps))
    (result,) = Guest(kernel).boot([group]).groups
    if not result.passed:
        raise KlpError(
            "the kernel does not show its symbols", where=kernel.name, why=result.problem
        )
    for (name, path), step in zip(_IN_GUEST.items(), result.steps[1:], strict=True):
        yield name, _checked(kernel, path, step)


def _checked(kernel: Kernel, path: str, step: StepResult) -> bytes:
    lines = step.file.splitlines(keepends=True)
    if not lines or not step.file.endswith(b"\n"):
        raise KlpError(
            f"the guest's {path} came out empty or cut off",
            where=kernel.name,
            hint="Is the kernel built with CONFIG_KALLSYMS and CONFIG_DYNAMIC_FTRACE?",
        )
    of_kernel = [line for line in lines if not _LEFT_OUT.fullmatch(line)]
    if path == _IN_GUEST[KALLSYMS]:
        _check_addresses(kernel, of_kernel)
    return b"".join(of_kernel)


def _check_addresses(kernel: Kernel, lines: list[bytes]) -> None:
    broken = next((line for line in lines if not _SYMBOL.fullmatch(line)), None)
    if broken is not None:
        raise KlpError(f"the guest's /proc/kallsyms has a line {broken!r}", where=kernel.name)
    if not any(int(line[: line.index(b" ")], 16) for line in lines):
        raise KlpError(
            "the guest's /proc/kallsyms has no addresses",
            where=kernel.name,
            why="The kernel hides them although kernel.kptr_restrict is 0.",
        )
