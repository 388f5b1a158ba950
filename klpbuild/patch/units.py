"""Find the objects of a kernel that a source file goes into, and their owners.

The answer is in the shipped kernel's debug information, or in kbuild's notes in a build
tree: nothing is guessed from Makefiles, and a file that is in no compile unit is in no
object.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.distro.parts import Part
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.files.records import read_record
from klpbuild.files.whole import write_file
from klpbuild.kernel.lacking import how_to_get
from klpbuild.kernel.modules import debug_files
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.patch.cmdfiles import has_notes, noted_units
from klpbuild.patch.linetable import LineUnit, line_units
from klpbuild.patch.paths import PROGRAMS

_FORMAT = 3


@dataclass(frozen=True)
class Unit:
    """A compile unit of the kernel.

    :ivar owner: vmlinux or the module that it is linked into.
    :ivar source: the file that was compiled, relative to the source tree.
    :ivar objects: what kbuild may call its object, the likeliest first.
    """

    owner: str
    source: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class _Names:
    """The texts of the file that `Units` are kept in."""

    owners: list[str]
    paths: list[str]
    objects: dict[str, str]


class Units:
    """All compile units of a kernel and the files that they are made of."""

    def __init__(
        self,
        owners: Sequence[str],
        paths: Sequence[str],
        owner_of: npt.NDArray[np.uint32],
        starts: npt.NDArray[np.uint32],
        files: npt.NDArray[np.uint32],
        objects: Mapping[str, str],
    ) -> None:
        """Note the tables: unit ``i`` has ``files[starts[i]:starts[i + 1]]``, its own source first.

        :param objects: by a unit's number what its object is called, unless like its source.
        """
        self._owners, self._paths, self._objects = owners, paths, objects
        self._owner_of, self._starts, self._files = owner_of, starts, files
        self._number = {path: i for i, path in enumerate(paths)}

    @classmethod
    def read(cls, kernel: Kernel) -> Units:
        """Read debug information of vmlinux and all modules, or kbuild's notes, once for a kernel.

        :raises KlpError: without either.
        """
        if kernel.vmlinux is None:
            raise _without_symbols(kernel)
        modules = kernel.modules
        if kernel.debug_modules is not None:
            modules = debug_files(kernel.debug_modules)
        files = [kernel.vmlinux, *modules]
        digest = hashlib.sha256(str(_FORMAT).encode())
        for path in files:
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        cached = kernel.cache / f"units-{digest.hexdigest()[:16]}.npz"
        units = read_record(cached, cls._from_bytes)
        if units is None:
            scanned = _scan(kernel, files)
            write_file(cached, scanned)
            units = cls._from_bytes(scanned)
        return units

    @classmethod
    def _from_bytes(cls, data: bytes) -> Units:
        """Parse what `_scan` made; any exception means that it is damaged."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = _Names(**json.loads(arrays["names"].tobytes()))
            numbers = [arrays[key] for key in ("owner_of", "starts", "files")]
        owner_of, starts, files = numbers
        if any(array.dtype != np.uint32 or array.ndim != 1 for array in numbers):
            raise ValueError("is not a table of compile units")
        owners, paths = names.owners, names.paths
        # `from_json` takes a tenth of a second for so many.
        texts = (owners, paths, list(names.objects), list(names.objects.values()))
        if any({type(text) for text in one} - {str} for one in texts):
            raise ValueError("has names that are no texts")
        if len(owner_of):
            units_end = len(starts) == len(owner_of) + 1 and starts[-1] == len(files)
            if not units_end or owner_of.max() >= len(owners) or files.max() >= len(paths):
                raise ValueError("names compile units that are not there")
            if (np.diff(starts.astype(np.int64)) <= 0).any():
                raise ValueError("has a compile unit without files")
        return cls(owners, paths, owner_of, starts, files, names.objects)

    def compiled_from(self, path: str) -> tuple[Unit, ...]:
        """Find the units whose own source is this file."""
        number = self._number.get(path)
        if number is None:
            return ()
        found = np.flatnonzero(self._files[self._starts[:-1]] == number)
        return tuple(self._unit(int(i)) for i in found)

    def mentioning(self, path: str) -> tuple[Unit, ...]:
        """Find the units whose debug information names this file, as source or included.

        A header of which a unit uses macros only is not named there.
        """
        number = self._number.get(path)
        if number is None:
            return ()
        places = np.flatnonzero(self._files == number)
        found = np.unique(np.searchsorted(self._starts, places, side="right") - 1)
        return tuple(self._unit(int(i)) for i in found)

    def directories(self, units: Iterable[Unit]) -> frozenset[str]:
        """List the directories of all files that these units are made of, headers included."""
        wanted = frozenset(units)
        sources = {self._number[unit.source] for unit in wanted}
        firsts = self._files[self._starts[:-1]]
        members = [
            self._files[self._starts[i] : self._starts[i + 1]]
            for i in np.flatnonzero(np.isin(firsts, list(sources))).tolist()
        ]
        found = np.unique(np.concatenate(members)) if members else np.zeros(0, np.uint32)
        return frozenset(posixpath.dirname(self._paths[i]) for i in found.tolist())

    def has(self, owner: str, directory: str = "") -> bool:
        """Tell whether an object has a unit whose source is below a directory."""
        if owner not in self._owners:
            return False
        units = np.flatnonzero(self._owner_of == self._owners.index(owner))
        return any(
            self._source(unit).startswith(f"{directory}/" if directory else "")
            for unit in units.tolist()
        )

    @property
    def sources(self) -> frozenset[str]:
        """The own sources of all units."""
        return frozenset(self._paths[i] for i in self._files[self._starts[:-1]].tolist())

    def _source(self, unit: int) -> str:
        return self._paths[int(self._files[self._starts[unit]])]

    def _unit(self, unit: int) -> Unit:
        source = self._source(unit)
        stem = posixpath.splitext(source)[0]
        objects = [self._objects.get(str(unit), f"{stem}.o")]
        # kernel/bpf/relo_core.o is made from tools/lib/bpf/relo_core.c: the objects
        # linked before and after tell the directory.
        for neighbour in (unit - 1, unit + 1):
            if 0 <= neighbour < len(self._owner_of):
                directory = posixpath.dirname(self._source(neighbour))
                objects.append(posixpath.join(directory, posixpath.basename(stem) + ".o"))
        if source.startswith(PROGRAMS):
            objects.append(objects.pop(0))
        owner = self._owners[int(self._owner_of[unit])]
        return Unit(owner, source, tuple(dict.fromkeys(objects)))


def _without_symbols(kernel: Kernel) -> KlpError:
    if kernel.vmlinux is not None and kernel.vmlinux.parent == kernel.build:
        return KlpError(
            "vmlinux has no debug information, and the build tree no list of its objects",
            where=kernel.name,
            why="One of them must say which objects a source file is in.",
            hint="Build the kernel with CONFIG_DEBUG_INFO_DWARF5, or build v6.1 or later.",
        )
    return KlpError(
        "the kernel's debug symbols are not at hand",
        where=kernel.name,
        why="They say which objects a source file is in, and prove that it compiles to what runs.",
        hint=how_to_get(kernel, Part.DEBUG, Part.SOURCE),
    )


def _scan(kernel: Kernel, files: Sequence[Path]) -> bytes:
    owners: list[str] = []
    owner_of: list[int] = []
    starts: list[int] = [0]
    numbers: dict[str, int] = {}
    objects: dict[str, str] = {}
    members: list[int] = []
    for owner, units in _units_of(kernel, files, source_tree(kernel)):
        owners.append(owner)
        for unit in units:
            if unit.object != f"{posixpath.splitext(unit.source)[0]}.o":
                objects[str(len(owner_of))] = unit.object
            owner_of.append(len(owners) - 1)
            members += [numbers.setdefault(name, len(numbers)) for name in unit.files]
            starts.append(len(members))
    known = {"owners": owners, "paths": list(numbers), "objects": objects}
    names = json.dumps(known).encode()
    out = io.BytesIO()
    np.savez(
        out,
        names=np.frombuffer(names, np.uint8),
        owner_of=np.array(owner_of, np.uint32),
        starts=np.array(starts, np.uint32),
        files=np.array(members, np.uint32),
    )
    return out.getvalue()


def _units_of(
    kernel: Kernel, files: Sequence[Path], source: Path
) -> Iterator[tuple[str, list[LineUnit]]]:
    """Read the units of vmlinux and of each module, named relative to the source tree."""

    def units_of(path: Path) -> list[LineUnit]:
        return line_units(ElfFile.read(path))

    roots: list[str] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, units in zip(files, pool.map(units_of, files), strict=True):
            if path is kernel.vmlinux and not units:
                if not has_notes(kernel):
                    raise _without_symbols(kernel)
                yield from noted_units(kernel, source.resolve())
                return
            name = path.name.removesuffix(".debug")
            owner = VMLINUX if path is kernel.vmlinux else object_name(name)
            yield owner, [_unit_in_tree(unit, source, roots) for unit in units]


def _unit_in_tree(unit: LineUnit, source: Path, roots: list[str]) -> LineUnit:
    names = tuple(_in_tree(name, source, roots) for name in unit.files)
    root = next((root for root in roots if unit.object.startswith(root)), "")
    return LineUnit(names[0], names, unit.object.removeprefix(root))


def _in_tree(name: str, source: Path, roots: list[str]) -> str:
    """Strip the directory that the kernel was built in from an absolute name."""
    if not name.startswith("/"):
        return name
    for root in roots:
        if name.startswith(root):
            return name[len(root) :]
    parts = name.split("/")
    for i in range(1, len(parts)):
        rest = "/".join(parts[i:])
        if "/" in rest and (source / rest).is_file():
            roots.append("/".join(parts[:i]) + "/")
            return rest
    return name
