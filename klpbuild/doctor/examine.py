"""Look at a machine and a kernel, and note what is there and what is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from klpbuild.arch import X86_64
from klpbuild.doctor.needs import NEEDS, Need, Purpose
from klpbuild.doctor.system import System
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import cache_directory, cached_kernel
from klpbuild.kernel.kbuild import find_compiler
from klpbuild.kernel.locate import locate
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.busybox import is_usable

#: What a kernel with headers takes, and one with debug symbols and source, in bytes.
_SMALL, _WHOLE = 200e6, 4e9


class State(Enum):
    """What was found out of something."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    ABSENT = "-"  # and not required

    @property
    def good(self) -> bool:
        """Whether klpbuild can do its main work with it."""
        return self in (State.OK, State.ABSENT)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    :ivar heading: under which it is shown.
    :ivar text: what was found, or what it is for.
    :ivar package: the package that brings it, empty without one.
    :ivar command: what mends it, where that is no package.
    """

    heading: str
    state: State
    name: str
    text: str = ""
    package: str = ""
    command: str = ""


def examine(system: System, kernel: str | None = None) -> tuple[Finding, ...]:
    """Everything that klpbuild uses on a machine.

    :param kernel: as `klpbuild.kernel.locate.locate` takes it; None: no kernel is looked at.
    """
    findings = [_program(system, need) for need in NEEDS]
    findings += [_kvm(system), _space()]
    if kernel is not None:
        findings += _kernel(kernel)
    order = {f.heading: number for number, f in reversed(list(enumerate(findings)))}
    return tuple(sorted(findings, key=lambda finding: order[finding.heading]))


def _program(system: System, need: Need) -> Finding:
    found = system.find(need)
    package = need.package(system.manager) if system.manager else ""
    absent = State.MISSING if need.purpose.required else State.ABSENT
    if found is None:
        return Finding(need.purpose.value, absent, need.name, need.use, package)
    if need.name == "busybox" and not is_usable(found, X86_64):
        text = f"{found} needs shared libraries, which the guest has not"
        return Finding(need.purpose.value, State.WRONG, need.name, text, package)
    return Finding(need.purpose.value, State.OK, need.name, str(found))


def _kvm(system: System) -> Finding:
    heading, device = Purpose.COMFORT.value, system.root / "dev/kvm"
    if not device.exists():
        return Finding(heading, State.ABSENT, "KVM", "without it QEMU emulates, a few seconds more")
    if not os.access(device, os.R_OK | os.W_OK):
        text = f"{device} may not be opened; without it QEMU emulates, a few seconds more"
        return Finding(heading, State.ABSENT, "KVM", text)
    return Finding(heading, State.OK, "KVM", "tried before it is used: nested, it may hang")


def _space() -> Finding:
    directory = cache_directory()
    there = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    state = State.OK if free > _SMALL else State.MISSING
    wanted = "0.2 GB a kernel" if free <= _SMALL else "4 GB with debug symbols and source"
    text = f"{free / 1e9:,.1f} GB free in {directory}; a kernel takes {wanted}"
    if _SMALL < free <= _WHOLE:
        text += ", 0.2 GB without"
    command = "" if state.good else "export KLPBUILD_CACHE=a directory on a larger disk"
    return Finding("disk", state, "space", text, command=command)


def _kernel(text: str) -> Iterator[Finding]:
    heading = f"kernel {text}"
    try:
        kernel = locate(text)
    except KlpError as error:
        first = error.problems[0]
        command = f"klpbuild kernel fetch {text}" if "/" not in text else ""
        yield Finding(heading, State.MISSING, "headers", first.what, command=command)
        return
    yield Finding(heading, State.OK, "headers", str(kernel.build))
    yield _compiler(heading, kernel)
    fetch = f"klpbuild kernel fetch {kernel.release}"
    optional: tuple[tuple[str, Callable[[Kernel], Path | None], str, str], ...] = (
        ("image", lambda k: k.image, "to boot it", fetch),
        ("debug symbols", lambda k: k.vmlinux, "for source patches", f"{fetch} --debug-symbols"),
        ("source", _source, "for source patches and `klpbuild new`", f"{fetch} --source"),
    )
    for name, find, use, command in optional:
        path = find(kernel)
        if path is None:
            yield Finding(heading, State.ABSENT, name, f"{use}: {command}")
        else:
            yield Finding(heading, State.OK, name, str(path))


def _source(kernel: Kernel) -> Path | None:
    cached = cached_kernel(kernel.release)
    if kernel.source is None and cached and cached.learned == kernel.cache:
        try:
            return source_tree(kernel)
        except KlpError:
            return None
    return kernel.source


def _compiler(heading: str, kernel: Kernel) -> Finding:
    try:
        compiler = find_compiler(kernel)
    except KlpError as error:
        problem = error.problems[0]
        return Finding(heading, State.MISSING, "compiler", problem.what, command=problem.hint)
    if compiler.is_kernels:
        return Finding(heading, State.OK, "compiler", f"{compiler.version}, which built the kernel")
    return Finding(heading, State.WRONG, "compiler", compiler.warning)
