"""Write the heads of functions from the kernel's type information (BTF)."""

from __future__ import annotations

from struct import unpack_from

from klpbuild.elf.btf import BROKEN, Btf, BtfKind
from klpbuild.errors import broken

#: Limit on a declaration's length in characters; real ones have some hundred.
_DECLARATION_MAX = 100_000
_QUALIFIERS = {
    BtfKind.VOLATILE: "volatile",
    BtfKind.CONST: "const",
    BtfKind.RESTRICT: "restrict",
}
_TAGGED = {
    BtfKind.STRUCT: "struct",
    BtfKind.UNION: "union",
    BtfKind.ENUM: "enum",
    BtfKind.ENUM64: "enum",
    BtfKind.FWD: "struct",
}


def head(types: Btf, function: str, new: str) -> str | None:
    """Write a function's head in C, None when it is not known.

    :param function: its name.
    :param new: the name to write.
    :raises KlpError: when the types are damaged.
    """
    with broken(BROKEN, types.where):
        number = next(types.numbers(function, frozenset({BtfKind.FUNC})), None)
        if number is None:
            return head(types.base, function, new) if types.base else None
        return _declared(types, types.type(number).other, new, named=True)


def _declared(types: Btf, number: int, name: str, named: bool = False) -> str:
    """Write the C declaration of a name with a type, from the inside out."""
    if len(name) > _DECLARATION_MAX:
        raise ValueError("a type is part of itself")
    own, kind, count, _, other, behind = types.type(number)
    if kind is BtfKind.VOID:
        return f"void {name}".strip()
    inner = types.type(other).kind if kind in (BtfKind.PTR, *_QUALIFIERS) else None
    if kind is BtfKind.PTR:
        grouped = inner in (BtfKind.ARRAY, BtfKind.FUNC_PROTO)
        return _declared(types, other, f"(*{name})" if grouped else f"*{name}")
    if kind in _QUALIFIERS:
        word = _QUALIFIERS[kind]
        if inner is BtfKind.PTR:
            return _declared(types, other, f"{word} {name}")
        return f"{word} {_declared(types, other, name)}"
    if kind is BtfKind.ARRAY:
        element, _, length = unpack_from(f"{types.order}III", behind)
        return _declared(types, element, f"{name}[{length}]")
    if kind is BtfKind.FUNC_PROTO:
        return _declared(types, other, f"{name}({_parameters(types, count, behind, named)})")
    if kind is BtfKind.TYPE_TAG:
        return _declared(types, other, name)
    return f"{_TAGGED.get(kind, '')} {own} {name}".strip()


def _parameters(types: Btf, count: int, behind: memoryview, named: bool) -> str:
    parameters: list[str] = []
    length = 0
    for i in range(count):
        name, number = unpack_from(f"{types.order}II", behind, 8 * i)
        if not name and not number:
            parameters.append("...")
            continue
        word = types.string(name) or (f"argument{i + 1}" if named else "")
        parameters.append(_declared(types, number, word if named else ""))
        length += len(parameters[-1])
        if length > _DECLARATION_MAX:
            raise ValueError("a type is part of itself")
    return ", ".join(parameters) or "void"
