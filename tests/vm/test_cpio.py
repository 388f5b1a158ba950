"""The archive that the kernel unpacks."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.vm.cpio import Archive


def entries(data: bytes) -> Iterator[tuple[str, int, bytes, list[int]]]:
    """Read an archive as init/initramfs.c does: name, mode, data, all fields."""
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        text = data[offset + 6 : offset + 110]
        fields = [int(text[i : i + 8], 16) for i in range(0, 104, 8)]
        name_end = offset + 110 + fields[11]
        assert data[name_end - 1] == 0
        name = data[offset + 110 : name_end - 1].decode()
        start = name_end + -name_end % 4
        offset = start + fields[6] + -(start + fields[6]) % 4
        if name == "TRAILER!!!":
            assert offset == len(data)
            return
        yield name, fields[1], data[start : start + fields[6]], fields


PATHS = st.lists(st.text("abc.-_é", min_size=1, max_size=9), min_size=1, max_size=4).filter(
    lambda parts: not {".", ".."} & set(parts)
)


@given(st.lists(st.tuples(PATHS, st.binary(max_size=50)), max_size=10))
def test_what_goes_in_comes_out(files: list[tuple[list[str], bytes]]) -> None:
    archive = Archive()
    for parts, data in files:
        archive.add_file("/f/" + "/".join(parts) + "/x", data)
    found = list(entries(archive.finish()))
    regular = [(name, data) for name, mode, data, _ in found if stat.S_ISREG(mode)]
    assert regular == [("f/" + "/".join(parts) + "/x", data) for parts, data in files]
    names = [name for name, *_ in found]
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or parent in names[: names.index(name)], "a directory comes first"
    directories = [name for name, mode, *_ in found if stat.S_ISDIR(mode)]
    assert len(directories) == len(set(directories))
    inodes = [fields[0] for *_, fields in found]
    assert len(set(inodes)) == len(inodes), "the same inode would make hard links"


def sample() -> Archive:
    archive = Archive()
    archive.add_file("/bin/busybox", b"\x7fELF", 0o755)
    archive.add_link("/bin/sh", "busybox")
    archive.add_device("/dev/console", 5, 1)
    archive.add_directory("/proc")
    return archive


def test_kinds_of_entries() -> None:
    found = {name: (mode, data, fields) for name, mode, data, fields in entries(sample().finish())}
    assert stat.filemode(found["bin"][0]) == "drwxr-xr-x"
    assert stat.filemode(found["bin/busybox"][0]) == "-rwxr-xr-x"
    assert found["bin/sh"][:2] == (stat.S_IFLNK | 0o777, b"busybox")
    assert stat.filemode(found["dev/console"][0]) == "crw-------"
    assert found["dev/console"][2][9:11] == [5, 1]


def test_the_same_calls_give_the_same_bytes() -> None:
    assert sample().finish() == sample().finish()


@pytest.mark.parametrize("command", [["cpio", "-t"], ["busybox", "cpio", "-t"]])
def test_other_readers_agree(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    result = subprocess.run(command, input=sample().finish(), capture_output=True, check=True)
    names = result.stdout.decode().split()
    assert names == ["bin", "bin/busybox", "bin/sh", "dev", "dev/console", "proc"]
