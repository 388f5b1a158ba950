"""Gather all facts of one build, for all that is written about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Report
from klpbuild.elf.notes import build_id
from klpbuild.elf.reader import ElfFile
from klpbuild.files.records import from_json, read_output
from klpbuild.kernel.cache import FetchedPackage, cached_kernel
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import Livepatch
from klpbuild.names import LivepatchSymbol
from klpbuild.patch.fix import Fix
from klpbuild.patch.idle import Idle
from klpbuild.report.contents import Contents, read_contents
from klpbuild.report.inputs import Input
from klpbuild.report.references import (
    Claims,
    PatchHeader,
    Reference,
    ReferenceKind,
    claims,
    read_patch_header,
)


@dataclass(frozen=True)
class Fate:
    """How one undefined symbol was converted: an entry of ``relocations.json``.

    :ivar fate: ``livepatch``, ``exported``, ...
    :ivar gate: object whose loading applies the relocations; empty for an ordinary one.
    :ivar owner: the object that defines it; empty for an ordinary one.
    :ivar sympos: its position there; None for an ordinary one.
    :ivar relocations: how many livepatch relocations name it.
    """

    symbol: str
    fate: str
    why: str
    gate: str
    owner: str
    sympos: int | None
    relocations: int


def read_fates(path: Path, whys: Mapping[str, str] = MappingProxyType({})) -> tuple[Fate, ...]:
    """Read the ``relocations.json`` of a conversion, sorted by symbol.

    :param whys: by a livepatch symbol's name in the file, what an extraction knows better.
    :raises KlpError: when it is missing or damaged.
    """
    fates = []
    for fate in read_output(path, partial(from_json, tuple[Fate, ...])):
        if fate.owner:
            name = LivepatchSymbol(fate.owner, fate.symbol, fate.sympos or 0).format()
            fate = replace(fate, why=whys.get(name, fate.why))
        fates.append(fate)
    return tuple(sorted(fates, key=lambda f: (f.symbol, f.owner, f.sympos or 0)))


@dataclass(frozen=True)
class Facts:
    """A livepatch that was built for a kernel.

    :ivar symbols: the kernel's symbols.klp.
    :ivar compiler: the first line that the compiler says of itself.
    :ivar livepatch: as it is described; patches' functions are in the module.
    :ivar inputs: what it was compiled from.
    :ivar patches: the source patches in it, in their order; empty for C files.
    :ivar module: the converted module.
    :ivar fates: how each reference was resolved.
    :ivar used_symbols: digest of the symbols of each object that the conversion used.
    :ivar epoch: SOURCE_DATE_EPOCH, None when it is not set.
    :ivar reasons: why a function or variable of an extracted object is in the module, by
        its name there.
    :ivar idle: the patches that change nothing in this kernel, by name.
    :ivar fixes: the result of each source patch, those that are left out among them.
    :ivar left: the source patches that are left out, on purpose or not.
    :ivar checked: the second opinion on the module, if it has been asked for.
    """

    kernel: Kernel
    symbols: Path
    compiler: str
    livepatch: Livepatch
    inputs: tuple[Input, ...]
    patches: tuple[Path, ...]
    module: Path
    fates: tuple[Fate, ...]
    used_symbols: Mapping[str, str]
    epoch: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Idle] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    left: tuple[Path, ...] = ()
    checked: Report | None = None

    @cached_property
    def data(self) -> bytes:
        """The module's bytes."""
        return self.module.read_bytes()

    @cached_property
    def sha256(self) -> str:
        """The module's digest."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def contents(self) -> Contents:
        """What the module contains, read back."""
        return read_contents(self.data, self.module.name)

    @cached_property
    def side(self) -> KernelSide:
        """The kernel as the module meets it."""
        return KernelSide(self.kernel, self.symbols)

    @cached_property
    def check(self) -> Report:
        """The report of `check` on the module."""
        return self.checked or check_bytes(self.data, self.module.name, self.side)

    @cached_property
    def headers(self) -> tuple[PatchHeader, ...]:
        """The headers of the patches: subject, references."""
        return tuple(map(read_patch_header, self.patches))

    @cached_property
    def claims(self) -> Claims:
        """The faults that the description and the patches say that it mends."""
        left = [read_patch_header(patch) for patch in self.left]
        return claims(self.livepatch.references, self.headers, self.idle, left)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The faults that it mends."""
        return self.claims.mended

    def changes_nothing(self, patch: str) -> str | None:
        """Explain why a patch changes nothing in this kernel; None if it changes something."""
        idle = self.idle.get(patch)
        return idle.why if idle else None

    def not_affected(self) -> Iterator[tuple[Reference, PatchHeader, str]]:
        """List CVE numbers that are not mended, with the patch that names each and the reason."""
        for reference in self.claims.not_affected:
            if reference.kind is ReferenceKind.CVE:
                header = next(h for h in self.headers if reference in h.references)
                yield reference, header, self.idle[header.name].why

    @cached_property
    def packages(self) -> tuple[FetchedPackage, ...]:
        """The packages that the kernel came in; empty for one that was not fetched."""
        kernel = cached_kernel(self.kernel.release) if self.kernel.package_version else None
        return kernel.packages if kernel else ()

    @cached_property
    def build_id(self) -> str:
        """The build id of vmlinux in hexadecimal digits; empty when it is not at hand."""
        return build_id(ElfFile.read(self.kernel.vmlinux)) if self.kernel.vmlinux else ""

    def why(self, symbol: str, owner: str, sympos: int) -> str:
        """Explain why the conversion decided about a reference as it did; empty if it did not."""
        return self._whys.get((symbol, owner, sympos), "")

    @cached_property
    def _whys(self) -> dict[tuple[str, str, int], str]:
        return {(f.symbol, f.owner, f.sympos or 0): f.why for f in self.fates}

    @property
    def description(self) -> str:
        """Its purpose in one line: the author's, else the first patch's subject."""
        headers = [header for header in self.headers if header.name not in self.idle]
        subjects = (header.subject for header in headers if header.subject)
        return self.livepatch.description or next(subjects, "")
