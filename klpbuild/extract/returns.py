"""Find the functions of an object that may return to their callers."""

from __future__ import annotations

from klpbuild.extract.atoms import Atom
from klpbuild.extract.objects import CodeObject


class Returns:
    """Answers for one object whether its functions return; each is read once."""

    def __init__(self, code: CodeObject) -> None:
        self._code = code
        self._known: dict[Atom, bool] = {}

    def comes_back(self, atom: Atom) -> bool:
        """Tell whether a function may return."""
        if atom not in self._known:
            self._known[atom] = True  # while it is being read
            thunks, out = set(), set()
            for reference in self._code.references(atom):
                name = self._code.elf.symbol_list[reference.symbol].name
                if name == self._code.instructions.return_thunk:
                    thunks.add(reference.offset)
                elif not isinstance(reference.target, Atom) or (
                    reference.target is not atom and self.comes_back(reference.target)
                ):
                    out.add(reference.offset)
            data = self._code.contents(atom)
            known = self._code.instructions.returns(data, frozenset(thunks), frozenset(out))
            self._known[atom] = known
        return self._known[atom]
