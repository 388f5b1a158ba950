"""Find the parts of C files that are to be left out: what does not compile or lacks a function."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.records import from_json, to_json
from klpbuild.files.whole import write_file
from klpbuild.module.old_functions import check_old_functions
from klpbuild.patch.fix import Fault, Standing
from klpbuild.pipeline import steps
from klpbuild.pipeline.build import Build, Failed
from klpbuild.pipeline.table import Said
from klpbuild.request.chosen import Part
from klpbuild.symbols.database import SymbolDatabase


def note_failed(part: Part, output: Path, error: KlpError) -> None:
    """Write in place of an object why it could not be compiled."""
    faults = []
    for fault in _faults(error, Standing.NOT_COMPILED):
        first = re.search(r"error: (.+)", fault.why)
        faults.append(replace(fault, what=first[1]) if first else fault)
    write_file(output, to_json(Failed({part.name: tuple(faults)})))
    write_file(output.with_suffix(".d"), f"{output}:\n".encode())


def write_left_out(build: Build, said: Said) -> None:
    """Write which parts of C files are to be left out, and why.

    :param said: gets everything that is wrong with them.
    :raises KlpError: when nothing is left.
    """
    chosen, database = build.chosen, SymbolDatabase.read(build.paths.symbols)
    entries = steps.entry_points(build.kernel, database)
    own = [build.object_of(source) for source in chosen.parts[0].chosen.livepatch.sources]
    failed: dict[str, tuple[Fault, ...]] = {}
    for part in map(build.with_conditions, build.tried):
        livepatch, problems = part.chosen.livepatch, Problems()
        made = [build.object_of(source) for source in livepatch.sources]
        texts = (path.read_bytes() for path in made)
        notes = [from_json(Failed, text) for text in texts if not text.startswith(b"\x7fELF")]
        faults = [fault for note in notes for fault in note.parts[part.name]]
        if not faults:
            with problems.collect():
                steps.check_functions(part.chosen, [*made, *own])
            replaced = [(each.name, f) for each in livepatch.objects for f in each.functions]
            check_old_functions(replaced, database, entries, problems)
            try:
                problems.check()
            except KlpError as error:
                faults += _faults(error)
        if faults:
            failed[part.name] = tuple(faults)
    wrong = [fault for faults in failed.values() for fault in faults]
    rest = (p for p in chosen.parts if p.taken and p.name not in failed)
    if failed and not any(p.chosen.patches or p.chosen.livepatch.objects for p in rest):
        raise KlpError.together(wrong)
    said.warnings += map(str, wrong)
    write_file(build.paths.left_out, to_json(Failed(failed)))


def _faults(error: KlpError, standing: Standing = Standing.REFUSED) -> tuple[Fault, ...]:
    return tuple(Fault(p.what, p.where, p.why, p.hint, standing) for p in error.problems)
