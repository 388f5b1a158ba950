"""Describe what a module contains, as text for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from klpbuild.errors import printable
from klpbuild.package.compression import Compression
from klpbuild.report.comparison import Comparison
from klpbuild.report.contents import Contents, patched_as_json
from klpbuild.report.file import ModuleFile
from klpbuild.report.names import INPUTS_TAG, REFERENCE_TAG, VERSION_TAG

#: Tags that are shown elsewhere, or mean nothing to a reader.
_TOLD = frozenset({"name", "livepatch", "depends", "retpoline", "intree", "srcversion"})
_OURS = frozenset({INPUTS_TAG, REFERENCE_TAG, VERSION_TAG})

#: Version of the JSON's schema.
VERSION = 1


def as_text(file: ModuleFile, contents: Contents, comparison: Comparison | None) -> str:
    """Describe a module in a few lines a subject, with control characters escaped."""
    return "\n".join(printable(line) for line in _lines(file, contents, comparison)) + "\n"


def _lines(file: ModuleFile, contents: Contents, comparison: Comparison | None) -> Iterator[str]:
    packed = "" if file.compression is Compression.NONE else f", {file.compression}"
    yield f"{file.path}: livepatch {contents.name}{packed}"
    for tag, values in contents.information.items():
        if tag not in _TOLD | _OURS:
            yield f"  {tag:<12} {', '.join(values)}"
    for reference in contents.information.get(REFERENCE_TAG, ()):
        yield f"  {'mends':<12} {reference}"
    yield f"  {'sha256':<12} {file.sha256}"
    yield f"  {'signature':<12} {_signature(file)}"
    yield "patches:"
    if contents.patched is None:
        yield "  what its code makes when it is loaded: it has no static tables"
    for patched in contents.patched or ():
        for function in patched.functions or ():
            position = f",{function.sympos}" if function.sympos else ""
            yield f"  {patched.object}:{function.old}{position} by {function.new}"
        if patched.callbacks:
            yield f"  {patched.object}: callbacks {', '.join(sorted(patched.callbacks))}"
    yield "livepatch relocations:" if contents.relocations else "no livepatch relocations"
    for r in contents.relocations:
        when = "with the livepatch" if r.gate == "vmlinux" else f"when {r.gate} loads"
        times = f", {r.count} times" if r.count > 1 else ""
        yield f"  {r.owner}:{r.symbol},{r.sympos} in {r.section}{times}, {when}"
    yield from _provenance(contents, comparison)


def _signature(file: ModuleFile) -> str:
    signature = file.signature
    if signature is None:
        return "none"
    words = [f"by {signature.signer}" if signature.signer else "by somebody"]
    words += [f"key {signature.key}"] if signature.key else []
    words += [signature.hash] if signature.hash else []
    return ", ".join(words) + " (not verified)"


def _provenance(contents: Contents, comparison: Comparison | None) -> Iterator[str]:
    digest = contents.says(INPUTS_TAG)
    if digest:
        yield f"built by klpbuild {contents.says(VERSION_TAG)} from inputs {digest}"
    else:
        yield "carries no digest of its inputs: klpbuild did not link it"
    if comparison is None:
        yield "no provenance file beside it"
        return
    statement = comparison.statement
    yield f"{statement.path}:"
    same = "is about this module" if comparison.file_matches else "IS ABOUT ANOTHER MODULE"
    yield f"  {same}, by its sha256"
    if comparison.inputs_match is None:
        yield "  inputs cannot be compared: the module carries no digest of them"
    elif comparison.inputs_match:
        yield f"  lists the {len(statement.inputs)} inputs whose digest the module carries"
    else:
        yield "  LISTS OTHER INPUTS than those whose digest the module carries"
    for entry in statement.inputs if comparison.matches else ():
        yield f"  {entry.sha256[:16]}  {entry.name} ({entry.kind})"


def as_document(
    file: ModuleFile, contents: Contents, comparison: Comparison | None
) -> dict[str, Any]:
    """Describe a module in the stable schema of docs/provenance.md."""
    signature = file.signature
    return {
        "version": VERSION,
        "file": str(file.path),
        "compression": file.compression,
        "sha256": file.sha256,
        "module": contents.name,
        "modinfo": contents.information,
        "signature": signature and vars(signature),
        "klpbuild": contents.says(VERSION_TAG),
        "inputs_sha256": contents.says(INPUTS_TAG),
        "references": contents.information.get(REFERENCE_TAG, []),
        "patched": patched_as_json(contents),
        "livepatch_relocations": [vars(relocation) for relocation in contents.relocations],
        "exported_symbols": [
            {"symbol": e.symbol, "crc": None if e.crc is None else f"{e.crc:#010x}"}
            for e in contents.externals
        ],
        "provenance": comparison
        and {
            "file": str(comparison.statement.path),
            "file_matches": comparison.file_matches,
            "inputs_match": comparison.inputs_match,
            "predicate": comparison.statement.predicate,
        },
    }
