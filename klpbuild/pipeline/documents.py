"""Embed the digest of inputs; write provenance, bill of materials and report page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from klpbuild.compiler.driver import read_files
from klpbuild.compiler.flags import compile_command
from klpbuild.files.records import from_json, read_output, read_record
from klpbuild.files.whole import write_file
from klpbuild.pipeline import steps
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.extracted import NOTHING, Extracted
from klpbuild.pipeline.fixes import all_fixes
from klpbuild.pipeline.paths import RESULT
from klpbuild.pipeline.table import Said
from klpbuild.report import provenance
from klpbuild.report.facts import Facts, read_fates
from klpbuild.report.inputs import (
    inputs_digest,
    modinfo_source,
    read_inputs,
    read_inputs_file,
    write_inputs,
)
from klpbuild.report.references import claims, embedded_references, read_patch_header
from klpbuild.report.timings import read_timings
from klpbuild.request.chosen import Chosen
from klpbuild.request.matrix import Result


def compile_inputs(build: Build, rules: Sequence[Path], said: Said) -> None:
    """Compile the object that carries the digest of the inputs, and write their list.

    :param rules: the rules of its sources, which name the headers.
    :raises KlpError: when an input cannot be read.
    """
    chosen, paths = build.for_kernel(), build.paths
    extracted = Extracted.read(paths.record) if chosen.patches else NOTHING
    taken, left = _divided(chosen, extracted)
    included = [path for rule in rules for path in read_files(rule)]
    inputs = read_inputs(
        build.kernel,
        chosen.directory,
        descriptions=chosen.files,
        sources=chosen.livepatch.sources,
        patches=taken,
        included=included,
    )
    headers, others = ([read_patch_header(patch) for patch in each] for each in (taken, left))
    found = claims(chosen.livepatch.references, headers, extracted.idle, others)
    references = embedded_references(found.mended)
    source = paths.inputs.with_suffix(".c")
    threads = chosen.livepatch.accepted.threads
    write_file(source, modinfo_source(inputs, references, threads).encode())
    text = inputs_digest(inputs)
    steps.compile_source(build, source, paths.inputs, said, generated=True, text=text)
    write_inputs(paths.inputs_list, inputs)


def write_documents(build: Build) -> None:
    """Write provenance, bill of materials and report page beside a module.

    The steps before have left in the livepatch's directory of outputs what they found.

    :raises KlpError: when SOURCE_DATE_EPOCH is no number, or nothing can be written.
    """
    # These take a fifth of a second to import, which a build without changes need not wait for.
    from klpbuild.report.page import page
    from klpbuild.report.sbom import bill_of_materials
    from klpbuild.report.vex import vex

    kernel, chosen, paths = build.kernel, build.for_kernel(), build.paths
    extracted = Extracted.read(paths.record) if chosen.patches else NOTHING
    taken, left = _divided(chosen, extracted)
    used = read_output(paths.dependencies, _dependencies)
    facts = Facts(
        kernel=kernel,
        symbols=paths.symbols,
        compiler=compile_command(kernel).version,
        livepatch=chosen.livepatch,
        inputs=read_inputs_file(paths.inputs_list),
        patches=taken,
        module=paths.module,
        fates=read_fates(paths.relocations, extracted.places),
        used_symbols=used,
        epoch=provenance.source_date_epoch(),
        reasons=extracted.reasons,
        idle=extracted.idle,
        fixes=all_fixes(chosen, extracted.fixes),
        left=left,
        checked=steps.checked_before(paths.module.read_bytes(), kernel, paths.symbols),
    )
    written = (
        provenance.as_json(provenance.provenance(facts)),
        bill_of_materials(facts),
        vex(facts),
        page(facts, read_timings(paths.directory, paths.name)),
    )
    for path, data in zip(paths.documents, written, strict=True):
        write_file(path, data)


def _divided(chosen: Chosen, extracted: Extracted) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Split the patches into those in a livepatch and those left out, on purpose or not."""
    bad = {fix.patch for fix in extracted.fixes if not fix.good}
    left = (*(patch for patch in chosen.patches if patch.name in bad), *chosen.skipped)
    return tuple(patch for patch in chosen.patches if patch.name not in bad), left


def write_index(build: Path) -> None:
    """Write ``index.html`` of a directory of outputs: all kernels and livepatches in it.

    What is damaged is left out.
    """
    from klpbuild.report.index import Entry, index

    entries = []
    for path in sorted(build.glob(f"*/*/{RESULT}")):
        result = read_record(path, partial(from_json, Result))
        module = path.parent.name
        if result is not None and (path.parent.parent / f"{module}.ko").is_file():
            page = (path.parent.parent / f"{module}.html").is_file()
            kernel = path.parent.parent.name
            entries.append(Entry(kernel, module, result.text, result.good, page))
    if entries:
        write_file(build / "index.html", index(entries))


def _dependencies(data: bytes) -> dict[str, str]:
    """Parse the digest of each object's symbols, as `symbol_steps.write_dependencies` writes it."""
    lines = [line.split() for line in data.decode().splitlines()]
    return {name: digest for name, digest, *_ in lines}
