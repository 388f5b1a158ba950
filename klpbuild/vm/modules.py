"""Load the kernel's own modules in a guest: which file, and which modules before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from klpbuild.elf.modinfo import depends, modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, reading
from klpbuild.kernel.modules import builtin_modules, decompress
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name


@dataclass(frozen=True)
class ModuleInfo:
    """The fields of a module's ``.modinfo``.

    :ivar name: the kernel's name of it.
    :ivar depends: modules that define symbols it uses.
    :ivar soft: names or aliases of what it asks for while it starts.
    :ivar aliases: other names that it answers to, with ``*`` as wild card.
    """

    name: str
    depends: tuple[str, ...]
    soft: tuple[str, ...]
    aliases: tuple[str, ...]

    @classmethod
    def read(cls, data: bytes, path: Path) -> ModuleInfo:
        """Read a module's ``.modinfo``.

        :param data: the module, not compressed.
        :raises KlpError: when it is not an ELF file.
        """
        tags = modinfo(ElfFile(data, str(path)))
        soft = " ".join(tags.get("softdep", ())).replace("pre:", " ").replace("post:", " ")
        aliases = tuple(tags.get("alias", ()))
        return cls(object_name(path.name), depends(tags), tuple(soft.split()), aliases)


def read_module(path: Path) -> bytes:
    """Read a module's bytes, decompressed if its name says that it is compressed.

    :raises KlpError: when it cannot be read.
    """
    if path.suffix != ".ko":
        return decompress(path)
    with reading(path):
        return path.read_bytes()


class GuestModules:
    """The modules of a kernel, by name."""

    def __init__(self, files: Iterable[Path], builtin: Iterable[str] = ()) -> None:
        """Index the modules by name.

        :param files: module files that can be loaded.
        :param builtin: names of modules that are part of the image.
        """
        self.files = {object_name(path.name): path for path in files}
        self.builtin = frozenset(builtin)
        self._contents: dict[str, bytes] = {}
        self._info: dict[str, ModuleInfo] = {}

    @classmethod
    def of(cls, kernel: Kernel) -> GuestModules:
        """List the modules of a kernel."""
        builtin = builtin_modules(kernel.build, kernel.image, kernel.release)
        return cls(kernel.modules, builtin)

    def read(self, name: str) -> bytes:
        """Read a module's bytes, uncompressed.

        :raises KlpError: when the kernel has no such module.
        """
        if name not in self.files:
            raise KlpError(
                f"module {name} is not one of the kernel's",
                hint="It may belong to another package or configuration of the same release.",
            )
        if name not in self._contents:
            self._contents[name] = read_module(self.files[name])
        return self._contents[name]

    def info(self, name: str) -> ModuleInfo:
        """Read a module's ``.modinfo``.

        :raises KlpError: when the kernel has no such module.
        """
        if name not in self._info:
            self._info[name] = ModuleInfo.read(self.read(name), self.files[name])
        return self._info[name]

    def load_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Sort modules and those whose symbols they use for loading, without built-in ones.

        :param names: as `modprobe` takes them; ``-`` and ``_`` are the same.
        :raises KlpError: when one is missing, or they depend on each other in a circle.
        """
        order: dict[str, None] = {}
        for name in names:
            self._visit(object_name(name), (), order)
        return tuple(order)

    def _visit(self, name: str, above: tuple[str, ...], order: dict[str, None]) -> None:
        if name in order or name in self.builtin:
            return
        if name in above:
            raise KlpError("modules depend on each other: " + " -> ".join([*above, name]))
        for needed in self.info(name).depends:
            self._visit(needed, (*above, name), order)
        order[name] = None

    def closure(self, names: Iterable[str]) -> tuple[str, ...]:
        """Collect all that a guest needs to load modules: `load_order`, and their softdeps.

        Softdeps are found by name or alias.

        :raises KlpError: as `load_order`.
        """
        order = dict.fromkeys(self.load_order(names))
        pending = list(order)
        while pending:
            asked = self.info(pending.pop()).soft
            found = [name for alias in asked for name in self._answering(alias)]
            for name in self.load_order(name for name in found if name not in order):
                if name not in order:
                    order[name] = None
                    pending.append(name)
        return tuple(order)

    def _answering(self, alias: str) -> Iterator[str]:
        name = object_name(alias)
        if name in self.files:
            yield name
        elif name not in self.builtin:
            yield from self._by_alias.get(alias, ())

    @cached_property
    def _by_alias(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.files:
            for alias in self.info(name).aliases:
                found.setdefault(alias, []).append(name)
        return found
