"""Examine a machine: its distribution, programs and headers."""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from klpbuild.doctor.needs import Manager, Need

#: ID and ID_LIKE of os-release(5) by package manager.
_FAMILIES = {
    Manager.APT: ("debian", "ubuntu"),
    Manager.DNF: ("fedora", "rhel", "centos", "amzn"),
    Manager.ZYPPER: ("suse", "opensuse", "sles"),
    Manager.PACMAN: ("arch",),
}
_INCLUDE = ("usr/include", "usr/include/*-linux-gnu*", "usr/local/include")


@dataclass(frozen=True)
class System:
    """A machine.

    :ivar root: ``/``; tests examine another one.
    :ivar path: where programs are looked for, None for ``$PATH``.
    """

    root: Path = Path("/")
    path: str | None = None

    def os_release(self) -> dict[str, str]:
        """Read os-release(5); empty without that file."""
        for name in ("etc/os-release", "usr/lib/os-release"):
            try:
                text = (self.root / name).read_text(errors="replace")
            except OSError:
                continue
            pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
            return {key.strip(): _unquoted(value) for key, _, value in pairs}
        return {}

    @property
    def name(self) -> str:
        """The distribution, for people."""
        return self.os_release().get("PRETTY_NAME") or platform.system()

    @property
    def manager(self) -> Manager | None:
        """How packages are installed here; None for a distribution that is not known."""
        said = self.os_release()
        words = [said.get("ID", ""), *said.get("ID_LIKE", "").split()]
        for word in words:
            for manager, family in _FAMILIES.items():
                if word.startswith(family):
                    return manager
        return None

    def find(self, need: Need) -> Path | None:
        """Find a program or header; None where it is missing."""
        if not need.is_header:
            found = shutil.which(need.name, path=self.path)
            return Path(found) if found else None
        places = (place for pattern in _INCLUDE for place in sorted(self.root.glob(pattern)))
        return next((p / need.name for p in places if (p / need.name).is_file()), None)

    def install_command(self, packages: Iterable[str]) -> str:
        """Write the line that installs packages; empty without any, or a known manager."""
        manager, names = self.manager, sorted({name for name in packages if name})
        if manager is None or not names:
            return ""
        return f"sudo {manager.value} {' '.join(names)}"


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value
