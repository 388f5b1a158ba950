"""Records of patches that change nothing in a kernel; cheap to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Idle:
    """Reason why a patch changes nothing in the kernel that it is built for.

    :ivar sure: whether the kernel has nothing at all of it; False for a header that is
        also part of what no livepatch changes, such as assembly.
    """

    why: str
    sure: bool = True
