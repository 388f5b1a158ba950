"""Find patched functions that kernel threads never leave: a transition waits for them."""

from __future__ import annotations

from pathlib import Path

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.subject import Subject
from klpbuild.kernel.accepting import ACCEPT_TAG
from klpbuild.kernel.threads import Threads
from klpbuild.names import VMLINUX


def check_threads(subject: Subject) -> None:
    """Find the patched functions in which a thread stays, but for those that the module names."""
    if not subject.applies(catalogue.THREAD) or not subject.patched or not subject.kernel:
        return
    accepted = subject.info.get(ACCEPT_TAG, ())
    for patched in subject.patched:
        if not patched.functions:
            continue
        path = _shipped(subject.kernel, patched.object)
        if path is None:
            why = "the kernel's code is not at hand"
            if patched.object != VMLINUX:
                why = f"this kernel has no module {patched.object}"
            subject.not_checked(catalogue.THREAD, why, patched.object)
            continue
        for function in patched.functions:
            found = subject.kernel.old_function(patched.object, function)
            plain = function.old.partition(".")[0]
            if found is None or found.address is None or plain in accepted:
                continue
            cache = subject.kernel.kernel.cache
            if how := Threads.staying(path, found.section, found.address, cache):
                what = f"{function.old} is replaced, and a kernel thread stays in it: {how}"
                where = f"{patched.object}:{function.old}"
                subject.find(catalogue.THREAD, what, where, function=plain)


def _shipped(kernel: KernelSide, owner: str) -> Path | None:
    return kernel.kernel.vmlinux if owner == VMLINUX else kernel.modules.get(owner)
