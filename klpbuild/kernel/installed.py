"""Find the parts of an installed kernel in a Linux system."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Debian's linux-image packages hold this one line instead of symbols.
_STUB = b"The real System.map is in the linux-image-"


@dataclass(frozen=True)
class Installed:
    """A kernel that is installed in a system, or unpacked from its packages.

    :ivar root: ``/``, or what the packages were unpacked into.
    """

    root: Path
    release: str

    @property
    def modules(self) -> Path:
        """The directory of its modules, whether it is there or not."""
        places = [self.root / lib / "modules" / self.release for lib in ("lib", "usr/lib")]
        return next((place for place in places if place.is_dir()), places[0])

    def config(self) -> Path | None:
        """Find its configuration beside the image, where the headers have none.

        Those that the kernel's own ``bindeb-pkg`` and ``binrpm-pkg`` make have none since 6.3.
        """
        return _first([self.root / "boot" / f"config-{self.release}", self.modules / "config"])

    def image(self) -> Path | None:
        """Find the bootable image."""
        boot = self.root / "boot"
        return _first(
            [
                boot / f"vmlinuz-{self.release}",
                self.modules / "vmlinuz",
                self.modules / "vmlinuz.unsigned",  # Debian since 6.19
                boot / f"vmlinux-{self.release}",
            ]
        )

    def vmlinux(self) -> Path | None:
        """Find vmlinux with its symbols."""
        debug = self.root / "usr" / "lib" / "debug"
        places = [
            debug / "boot" / f"vmlinux-{self.release}",  # Debian, Ubuntu
            *(directory / "vmlinux" for directory in self._debug_directories()),  # Fedora, RHEL
            debug / f"vmlinux-{self.release}",
        ]
        # openSUSE, SLE and Azure Linux put .debug behind the name.
        return _first([*places, *(place.with_name(f"{place.name}.debug") for place in places)])

    def _debug_directories(self) -> list[Path]:
        debug = self.root / "usr" / "lib" / "debug"
        return [debug / lib / "modules" / self.release for lib in ("lib", "usr/lib")]

    def system_map(self) -> Path | None:
        """Find the real System.map, never Debian's stub."""
        name = f"System.map-{self.release}"
        places = [
            self.root / "usr" / "lib" / "debug" / "boot" / name,
            self.root / "boot" / name,
            self.modules / "System.map",
        ]
        return _first(place for place in places if not is_stub(place))

    def debug_modules(self) -> Path | None:
        """Find the directory of the modules' debug files."""
        places = self._debug_directories()
        return next((place for place in places if (place / "kernel").is_dir()), None)


def _first(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def is_stub(system_map: Path) -> bool:
    """Tell whether a System.map is the one line that Debian's image packages hold."""
    try:
        with system_map.open("rb") as file:
            return _STUB in file.read(200)
    except OSError:
        return False
