"""Refuse to replace a function whose parameters or result change while old callers stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from klpbuild.errors import Problems
from klpbuild.extract.result import Extraction
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.csource import code_alone
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.proof.callers import check_callers

_MARK = re.compile(rb"[;{}]")

#: Object and places of the functions of an object that the patch compiles again.
Places = Callable[[ObjectPair], Collection[int]]


def check_prototypes(
    kernel: Kernel,
    compiled: CompiledPatch,
    extractions: Sequence[tuple[ObjectPair, Extraction]],
    places: Places,
) -> None:
    """Check that all callers of a replaced function know its parameters and result.

    Those that were compiled with the patch do, changed or not.  Others, which declare the
    function themselves, would call the new one as they called the old one.

    :param places: where the functions of an object are, as `klpbuild.proof.shipped` counts.
    :raises KlpError: with the functions and their callers.
    """
    known: Mapping[str, set[int]] | None = None
    problems = Problems()
    for pair, extraction in extractions:
        for name in _called_otherwise(compiled, pair, extraction):
            if known is None:
                known = {each.owner: set() for each in compiled.pairs}
                for each in compiled.pairs:
                    known[each.owner].update(places(each))
            with problems.collect():
                check_callers(
                    kernel, pair.owner, name, pair.source, known, _in_unchanged(compiled),
                    "They call it as it was declared, and would reach the new one.",
                )  # fmt: skip
    problems.check()


def _called_otherwise(
    compiled: CompiledPatch, pair: ObjectPair, extraction: Extraction
) -> Iterator[str]:
    """Find the replaced functions whose parameters or result are passed in another way."""
    files = [
        (code_alone(file.original), code_alone(file.patched))
        for file in compiled.patched.files
        if file.original is not None and (file.path in pair.files or file.path == pair.source)
    ]
    names = [
        changed.name
        for changed in extraction.changed
        if any(_heads(changed.name, old) != _heads(changed.name, new) for old, new in files)
    ]
    if not names:
        return
    before, after = (
        compiled.compiler.types(pair.command, patched).functions for patched in (False, True)
    )
    for name in names:
        old, new = before.get(name), after.get(name)
        # Who called a function without a result does not look at one.
        if old and new and (old[1:] != new[1:] or old[0] not in ("void", new[0])):
            yield name


def _heads(name: str, text: bytes) -> set[bytes]:
    """Find the definitions of a function, up to the brace."""
    found = set()
    for match in re.finditer(rb"\b%b\s*\(" % re.escape(name.encode()), text):
        start = 1 + max(text.rfind(mark, 0, match.start()) for mark in (b";", b"{", b"}"))
        end = _MARK.search(text, match.end())
        if end is not None and end[0] == b"{":
            found.add(b" ".join(text[start : end.start()].split()))
    return found


def _in_unchanged(compiled: CompiledPatch) -> Callable[[str], bool]:
    """Make a test for functions in objects that were compiled with the patch and did not change."""
    paths = [compiled.tree.source / f"{target[:-2]}.c" for target in compiled.unchanged]
    texts = [path.read_bytes() for path in paths if path.is_file()]

    def is_there(name: str) -> bool:
        word = re.compile(rb"\b%b\s*\(" % re.escape(name.partition(".")[0].encode()))
        return any(word.search(text) for text in texts)

    return is_there
