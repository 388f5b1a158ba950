"""Parse the output of ``livepatch status``: the livepatches of the running kernel.

::

    livepatch_meminfo_2: being enabled
      vmlinux: meminfo_proc_show,1
      ext4 (not loaded): ext4_sync_fs,1
      task 812 (cat)
        [<0>] livepatch_meminfo_proc_show+0x2c/0x60 [livepatch_meminfo_1]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from klpbuild.errors import broken


class State(StrEnum):
    """State of a livepatch."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    ENABLING = "being enabled"
    DISABLING = "being disabled"
    LEFT = "disabled, module still loaded"  #: it was replaced, or disabled by hand


@dataclass(frozen=True)
class PatchedObject:
    """vmlinux or a module that a livepatch changes.

    :ivar loaded: whether the kernel has it now.
    :ivar functions: ``name,sympos``, as sysfs calls them.
    """

    name: str
    loaded: bool
    functions: tuple[str, ...]


@dataclass(frozen=True)
class BlockingTask:
    """A task that has not switched, and so holds up a transition.

    :ivar stack: where it sleeps; empty without root.
    """

    pid: int
    name: str
    stack: tuple[str, ...]


@dataclass(frozen=True)
class LivepatchStatus:
    """A livepatch of the running kernel."""

    module: str
    state: State
    objects: tuple[PatchedObject, ...] = ()
    blocked_by: tuple[BlockingTask, ...] = ()


def parse_status(text: str) -> tuple[LivepatchStatus, ...]:
    """Parse the output of ``livepatch status``.

    :raises KlpError: when they are other words.
    """
    with broken("does not say how the livepatches are", "livepatch status"):
        return _parsed(text)


def _parsed(text: str) -> tuple[LivepatchStatus, ...]:
    return tuple(_livepatch(block) for block in re.split(r"\n(?! )", text) if ": " in block)


def _livepatch(block: str) -> LivepatchStatus:
    first, *lines = block.splitlines()
    module, _, state = first.partition(": ")
    return LivepatchStatus(module, State(state), tuple(_objects(lines)), tuple(_tasks(lines)))


def _objects(lines: list[str]) -> Iterator[PatchedObject]:
    for line in lines:
        if found := re.fullmatch(r"  (\w+)( \(not loaded\))?:(.*)", line):
            yield PatchedObject(found[1], found[2] is None, tuple(found[3].split()))


def _tasks(lines: list[str]) -> Iterator[BlockingTask]:
    for number, line in enumerate(lines):
        if found := re.fullmatch(r"  task (\d+) \((.*)\)", line):
            stack = []
            for deeper in lines[number + 1 :]:
                if not deeper.startswith("    "):
                    break
                stack.append(deeper.strip())
            yield BlockingTask(int(found[1]), found[2], tuple(stack))


def as_json(livepatches: tuple[LivepatchStatus, ...]) -> list[dict[str, Any]]:
    """Turn the livepatches into what can be written as JSON."""
    return [asdict(livepatch) for livepatch in livepatches]


#: The metrics, and the meaning of each.
_METRICS = (
    ("livepatch_enabled", "Whether its functions replace the kernel's, or are about to."),
    ("livepatch_transition", "Whether tasks still switch to it or from it."),
    ("livepatch_blocking_tasks", "How many tasks hold up the transition."),
    ("livepatch_functions", "How many functions it replaces in objects that are loaded."),
)


def as_metrics(livepatches: tuple[LivepatchStatus, ...]) -> str:
    """Write the livepatches as metrics that Prometheus reads.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = []
    for number, (name, meaning) in enumerate(_METRICS):
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        for each in livepatches:
            lines.append(f'{name}{{module="{each.module}"}} {_values(each)[number]}')
    return "\n".join(lines) + "\n"


def _values(livepatch: LivepatchStatus) -> tuple[int, int, int, int]:
    """Compute the values of `_METRICS`, in their order."""
    switching = livepatch.state in (State.ENABLING, State.DISABLING)
    return (
        int(livepatch.state in (State.ENABLED, State.ENABLING)),
        int(switching),
        len(livepatch.blocked_by),
        sum(len(patched.functions) for patched in livepatch.objects if patched.loaded),
    )
