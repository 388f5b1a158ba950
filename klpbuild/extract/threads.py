"""Functions in which a kernel thread stays.

While a task is in a replaced function its transition does not end
(Documentation/livepatch/livepatch.rst, "Consistency model"), and the kernel can wake a kernel
thread but not make it return.
"""

from __future__ import annotations

from collections.abc import Iterable

from klpbuild.arch import x86_64
from klpbuild.extract.objects import Atom, CodeObject
from klpbuild.extract.returns import Returns
from klpbuild.extract.sections import SectionKind

#: What the function of a thread asks to see if it is to end (kernel/kthread.c).
_STOPS = frozenset(
    {
        "kthread_freezable_should_stop",
        "kthread_should_park",
        "kthread_should_stop",
        "kthread_should_stop_or_park",
    }
)


def is_of_a_thread(code: CodeObject, function: Atom, users: Iterable[Atom]) -> bool:
    """Whether a kernel thread stays in a function until it is told to stop, or for ever.

    A function that a thread begins with is not called by its name: something holds its address.

    :param users: what refers to the function in its object.
    """
    held = any(
        reference.target is function and not code.is_branch(user, reference)
        for user in users
        if user.kind in (SectionKind.CODE, SectionKind.DATA)  # an export is no such holder
        for reference in code.references(user)
    )
    names = {code.elf.symbol_list[r.symbol].name for r in code.references(function)}
    if not held or not names.isdisjoint(_STOPS):
        return held
    return not Returns(code).comes_back(function) and _loops(code.contents(function))


def _loops(code: bytes) -> bool:
    return any(not b.is_call and b.target <= b.start for b in x86_64.branches(code))
