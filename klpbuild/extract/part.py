"""Represent one object that a patch changes, in both versions, compared when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from klpbuild.elf.reader import Symbol
from klpbuild.elf.vartypes import VariableType
from klpbuild.extract.atoms import Atom
from klpbuild.extract.correlate import Correlation, correlate
from klpbuild.extract.linkage import LinkedObject, Origin, Ties
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.retyped import type_change
from klpbuild.extract.sizes import EntrySizes
from klpbuild.extract.special import Tables
from klpbuild.extract.state import settle_renamed
from klpbuild.extract.variable import Variable, Version

#: The types of an object's variables by their symbols: of the patched one, or the original.
VariableTypes = Callable[[bool], Mapping[str, VariableType]]


def no_types(patched: bool) -> Mapping[str, VariableType]:
    """Return no types, where nobody knows those of variables."""
    return {}


@dataclass(eq=False, kw_only=True)
class Part(LinkedObject):
    """An object of a patch, with both versions' contents.

    :ivar source: its source file.
    :ivar sizes: sizes of the table entries of this kernel.
    :ivar types: the types of its variables.
    :ivar declares: whether the patch may declare variables otherwise.
    :ivar trees: the directories of the original and the patched source.
    :ivar accepted_data: names of variables whose content, type or name may change.
    :ivar known: names of functions that change though its two versions do not show it.
    """

    source: str
    sizes: EntrySizes
    types: VariableTypes = no_types
    declares: bool = True
    trees: tuple[str, str] = ("", "")
    known: frozenset[str] = frozenset()
    accepted_data: Collection[str] = ()

    @cached_property
    def _versions(self) -> tuple[Version, Version]:
        """Both versions, read and matched.

        :raises KlpError: for an object that cannot be read.
        """
        both = zip((self.original, self.patched), self.trees, strict=True)
        old_code, new_code = (CodeObject(elf, self.sizes, tree) for elf, tree in both)
        codes = old_code, new_code
        correlation = correlate(*codes, self.number, self.ties)
        old = Version(correlation, False, Tables(codes[0]), lambda: self.types(False))
        new = Version(correlation, True, Tables(codes[1]), lambda: self.types(True))
        settle_renamed(old, new, self.accepted_data)
        return old, new

    @property
    def old(self) -> Version:
        """The object that the kernel has."""
        return self._versions[0]

    @property
    def new(self) -> Version:
        """The object that the patch makes of it."""
        return self._versions[1]

    @property
    def correlation(self) -> Correlation:
        """The matching atoms of the two."""
        return self.old.correlation

    def kernel_symbol(self, symbol: Symbol) -> Origin | None:
        """Find the kernel's symbol of one that the patched object defines."""
        atom = self.new.code.atom_of(symbol.index)
        twin = self.correlation.to_original.get(atom)
        if twin is not None:
            return self.origin(twin.symbols[0])
        return next(iter(self.correlation.origins(atom)), None)

    @property
    def is_alone(self) -> bool:
        """Whether it shares nothing with the other objects, and was not compared with them."""
        return self.ties == Ties() and "_versions" not in self.__dict__

    def forget(self) -> None:
        """Free the memory of the contents: a patch may change hundreds of objects."""
        self.__dict__.pop("_versions", None)

    def retyped(self, original: Atom, patched: Atom) -> str:
        """Tell why code takes a variable of the original for another type; empty if not."""
        old, new = Variable(self.old, original), Variable(self.new, patched)
        return type_change(old, new) if self.declares and old.holds_state else ""
