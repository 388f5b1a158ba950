"""The record of what a livepatch's author accepts beyond what the kernel's code shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accepted:
    """Changes that are refused unless the author names them.

    :ivar layouts: structures, such as ``struct x``, that may be laid out otherwise: no object
        of them outlives the functions that are replaced; in C files, which may differ from the
        kernel's of their names.
    :ivar threads: functions of kernel threads that may be replaced: none of these threads runs
        when the livepatch is loaded.
    :ivar data: variables whose content callbacks may write: all code may see the new one at any
        time, and keep what it took before; and those that the patches name or declare otherwise,
        and that are the running kernel's.
    """

    layouts: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


NOTHING = Accepted()
