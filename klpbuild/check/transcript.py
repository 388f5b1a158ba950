"""Write an explanation as text or JSON: what each reference resolved to, old and new code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from klpbuild.check.code import Instruction
from klpbuild.check.explain import Explanation, Pair
from klpbuild.errors import printable

_WIDTH = 64


def lines(explanation: Explanation, *, changes_only: bool = False) -> Iterator[str]:
    """Write the lines of a function's explanation.

    :param changes_only: leave out instructions that are the same in both.
    """
    yield printable(f"{explanation.name} {explanation.why}")
    if explanation.references:
        yield ""
        for reference in explanation.references:
            times = f" ({reference.count} times)" if reference.count > 1 else ""
            yield printable(f"  {reference.symbol}{times}")
            yield printable(f"      -> {reference.what}")
            yield printable(f"      {reference.why}")
    for mismatch in explanation.mismatches:
        yield printable(f"  ERROR: {mismatch.what}")
    yield ""
    if not explanation.shipped:
        if explanation.old:
            yield "  the shipped function is not at hand: the new one alone"
        for pair in explanation.pairs:
            if pair.new:
                yield printable(f"  {pair.new.offset:6x}  {pair.new.text}")
        return
    yield from _side_by_side(explanation, changes_only)


def as_record(explanation: Explanation, *, changes_only: bool = False) -> dict[str, object]:
    """Convert a function's explanation to what JSON can hold.

    :param changes_only: leave out instructions that are the same in both.
    """
    wrong = [mismatch.pair for mismatch in explanation.mismatches]
    pairs = [p for p in explanation.pairs if not changes_only or not p.same or p in wrong]
    return {
        "name": explanation.name,
        "replaces": explanation.old,
        "why": explanation.why,
        "references": [asdict(reference) for reference in explanation.references],
        "mismatches": [mismatch.what for mismatch in explanation.mismatches],
        "shipped": explanation.shipped,
        "instructions": [
            {"same": p.same, "old": _instruction(p.old), "new": _instruction(p.new)} for p in pairs
        ],
    }


def _instruction(instruction: Instruction | None) -> dict[str, object] | None:
    if instruction is None:
        return None
    return {"offset": instruction.offset, "text": instruction.text}


def _side_by_side(explanation: Explanation, changes_only: bool) -> Iterator[str]:
    yield printable(f"      {explanation.old:<{_WIDTH + 8}}  {explanation.name}")
    wrong = [mismatch.pair for mismatch in explanation.mismatches]
    left_out = 0
    for pair in explanation.pairs:
        if changes_only and pair.same and pair not in wrong:
            left_out += 1
            continue
        if left_out:
            yield f"      ... {left_out} the same"
            left_out = 0
        yield printable(_pair(pair, "!" if pair in wrong else _sign(pair)))
    if left_out:
        yield f"      ... {left_out} the same"


def _sign(pair: Pair) -> str:
    if pair.same:
        return " "
    return "<" if pair.new is None else ">" if pair.old is None else "|"


def _pair(pair: Pair, sign: str) -> str:
    old = f"{pair.old.offset:6x}  {pair.old.text}" if pair.old else ""
    new = f"{pair.new.offset:6x}  {pair.new.text}" if pair.new else ""
    return f"{old:<{_WIDTH + 8}} {sign} {new}".rstrip()
