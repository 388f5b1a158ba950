"""A step of a guest that tests of packages and signatures need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.vm.scenario import GuestFiles, Step


@dataclass(frozen=True)
class Bring(Step):
    """Put a file of the host somewhere in the guest, as it is and in one piece.

    :ivar path: named ``.ko``, by which nothing decompresses it on the way.
    """

    path: Path
    place: Path

    @property
    def title(self) -> str:
        return f"install {self.place}"

    @property
    def module_file(self) -> Path:
        return self.path

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        copy = f"dd bs=64k if={files.livepatch(self.path)} of={self.place}"
        return ("shell", f"mkdir -p {self.place.parent} && {copy}")
