"""Write the archive that a kernel unpacks as its first root file system.

The format is the kernel's "newc" (its document
driver-api/early-userspace/buffer-format.rst): a header of 110 characters, the name and
the data, each padded to four bytes.
"""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

_MAGIC = "070701"
_END = "TRAILER!!!"


class Archive:
    """A "newc" archive in memory; the same calls give the same bytes.

    Inode numbers count from 1, owner and group are root, times are 0.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0
        self._directories: set[str] = set()

    def add_directory(self, path: str) -> None:
        """Add a directory, and before it those above it that are not there yet.

        :param path: absolute path in the guest.
        """
        name = _name(path)
        if not name or name in self._directories:
            return
        self.add_directory(str(PurePosixPath(name).parent))
        self._directories.add(name)
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file and its directories.

        :param path: absolute path in the guest.
        :param mode: its permissions.
        """
        self.add_directory(str(PurePosixPath(path).parent))
        self._entry(_name(path), stat.S_IFREG | mode, data)

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link and its directories.

        :param path: absolute path in the guest.
        :param target: what it points to, as written into the link.
        """
        self.add_directory(str(PurePosixPath(path).parent))
        self._entry(_name(path), stat.S_IFLNK | 0o777, target.encode())

    def add_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device and its directories.

        :param path: absolute path in the guest.
        """
        self.add_directory(str(PurePosixPath(path).parent))
        self._entry(_name(path), stat.S_IFCHR | 0o600, b"", (major, minor))

    def finish(self) -> bytes:
        """Return the whole archive, with its end mark."""
        data = bytearray(self._data)
        _append(data, _END, 0, 0, b"", (0, 0))
        return bytes(data)

    def _entry(
        self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        _append(self._data, name, self._inode, mode, content, device)


def _name(path: str) -> str:
    return "" if path in ("/", ".") else path.lstrip("/")


def _append(
    data: bytearray, name: str, inode: int, mode: int, content: bytes, device: tuple[int, int]
) -> None:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (
        inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0,
    )  # fmt: skip
    data += (_MAGIC + "".join(f"{field:08X}" for field in fields)).encode()
    data += encoded
    data += bytes(-len(data) % 4)
    data += content
    data += bytes(-len(data) % 4)
