"""The table of build steps: inputs, outputs, further dependencies and a function for each.

SCons makes nodes of it (`klpbuild.scons.nodes`); `klpbuild build` and `klpbuild new` run it in
order.  A step imports what it calls: a build in which nothing is done does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from klpbuild.errors import KlpError, named_by_path, printable
from klpbuild.kernel.prepare import kernel_compiler
from klpbuild.kernel.tree import Kernel
from klpbuild.names import index_path
from klpbuild.patch.fix import PatchesError, fix_table
from klpbuild.patch.series import stated_level
from klpbuild.pipeline.build import Build, flags_of, source_flags
from klpbuild.pipeline.extracted import Extracted, archive_path
from klpbuild.pipeline.failure import noting_failure
from klpbuild.report.inputs import meaning
from klpbuild.report.timings import timed
from klpbuild.request.chosen import Part


class Counts(Enum):
    """Dependencies of a step beside files; `klpbuild.pipeline.identity` has a text for each."""

    KERNEL = "the kernel without its modules"
    MODULES = "the kernel with its modules"
    COMPILER = "compiler, binutils and the user's flags"
    KLPBUILD = "klpbuild itself"


@dataclass
class Said:
    """Messages of a step; whoever runs it shows them, also when it fails.

    :ivar warnings: lines that begin with the file that they are about.
    :ivar results: what was found or made.
    :ivar details: more of it, for who asks.
    :ivar read: the user's files that it has read, inputs or not.
    """

    warnings: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    read: list[Path] = field(default_factory=list)

    def lines(self, heading: str = "", *, verbose: bool = False) -> list[str]:
        """Format all messages for people.

        :param heading: stands above the results.
        :param verbose: with the details.
        """
        results = [*self.results, *(self.details if verbose else ())]
        results = [heading, *results] if heading and results else results
        return [
            *(printable(line, keep="\n\t") for line in self.warnings),
            *("          " + printable(line, keep="\n\t") for line in results),
        ]


@dataclass(frozen=True)
class Step:
    """A step of a build.

    :ivar tag: its word in the build's output, ``CC``.
    :ivar outputs: all files that it writes.
    :ivar run: does it, and tells what it has to say.
    :ivar inputs: files that it reads.
    :ivar counts: what else its outputs follow from: `Counts`, and texts that change with it.
    :ivar after: files that it reads, too, and that one of the inputs stands for.
    :ivar headers: the directories in which ``#include "x.h"`` of the inputs is looked for; none
        if they are not C.
    :ivar rules: rules of make that name what was read the last time.
    :ivar shared: whether its outputs may come from a cache, and go there.
    """

    tag: str
    outputs: tuple[Path, ...]
    run: Callable[[Said], None]
    inputs: tuple[Path, ...] = ()
    counts: tuple[Counts | str, ...] = ()
    after: tuple[Path, ...] = ()
    headers: tuple[Path, ...] = ()
    rules: tuple[Path, ...] = ()
    shared: bool = True


_ALWAYS = (Counts.KERNEL, Counts.KLPBUILD)


def symbols_step(kernel: Kernel, output: Path) -> Step:
    """Make the step that all livepatches of a kernel share: symbols.klp."""

    def run(said: Said) -> None:
        from klpbuild.pipeline.symbol_steps import write_symbols

        write_symbols(kernel, output, said)

    outputs = (output, index_path(output))
    return Step("SYMBOLS", outputs, run, counts=(Counts.MODULES, Counts.KLPBUILD))


def livepatch_steps(build: Build) -> tuple[Step, ...]:
    """Make the steps of one livepatch in an order in which they can be run, without symbols.klp.

    :raises KlpError: when its description or a patch cannot be read, or patches cannot be built
        for the kernel.
    """
    chosen, paths = build.chosen, build.paths
    sources = [*chosen.livepatch.sources]
    steps = []
    if chosen.patches:
        kernel_compiler(build.kernel)  # before anything is read
        steps.append(_extract(build))
    for part in build.lists:
        steps += _list(build, part)
    steps += [_compile(build, source) for source in sources]
    if build.tried:
        steps.append(_parts(build))
    if chosen.patches or chosen.parts or chosen.description is not None:
        steps += [_tables(build), _compile(build, paths.tables)]
        sources.append(paths.tables)
    objects = tuple(build.object_of(source) for source in sources)
    objects += tuple(paths.calls(part.name).with_suffix(".o") for part in build.lists)
    own = objects[: len(chosen.livepatch.sources)]
    steps += [
        _inputs(build, tuple(path.with_suffix(".d") for path in own)),
        _link(build, objects),
        _dependencies(build),
        _convert(build, own),
    ]
    made = (noting_failure(build, s) if s.tag != "EXTRACT" else s for s in steps)
    return (*made, _graph(build), _documents(build))


def _extract(build: Build) -> Step:
    chosen, paths = build.chosen, build.paths
    accepted, objects = chosen.accepted, chosen.callbacks

    def run(said: Said) -> None:
        from klpbuild.pipeline.fixes import extract_chosen

        try:
            with named_by_path(chosen.patches):
                extracted = extract_chosen(build)
        except PatchesError as error:
            said.results += fix_table(error.fixes)
            raise
        extracted.write(paths.record)
        said.results += extracted.report
        if not chosen.parts:  # of which there is one table at the end
            said.results += fix_table(extracted.fixes)
        said.details += extracted.references

    return Step(
        "EXTRACT",
        (paths.record, archive_path(paths.record)),
        run,
        (paths.symbols, *chosen.patches),
        (
            *_ALWAYS,
            Counts.COMPILER,  # it makes extracted objects, from the source tree
            repr([stated_level(patch) for patch in chosen.patches]),
            repr((accepted, objects, chosen.livepatch.skip)),
            *(["keep going"] if build.keep_going else []),  # else what was left out is tried
            f"source={build.source}",
        ),
    )


def _parts(build: Build) -> Step:
    """Make the step that looks which parts of C files are to be left out."""
    paths, sources = build.paths, build.chosen.livepatch.sources
    conditions = (paths.conditions(part.name) for part in build.lists)

    def run(said: Said) -> None:
        from klpbuild.pipeline.tried import write_left_out

        write_left_out(build, said)

    inputs = (paths.symbols, *conditions, *map(build.object_of, sources))
    counts = (*_ALWAYS, build.chosen.livepatch.content)
    return Step("PARTS", (paths.left_out,), run, inputs, counts)


def _tables(build: Build) -> Step:
    def run(said: Said) -> None:
        from klpbuild.pipeline.steps import write_tables

        write_tables(build)

    counts = (*_ALWAYS, build.chosen.livepatch.content)
    return Step("GEN", (build.paths.tables,), run, build.found, counts)


def _list(build: Build, part: Part) -> tuple[Step, ...]:
    """Make the steps for a part with a list: what it replaces here, and calls of its functions."""
    conditions, calls = build.paths.conditions(part.name), build.paths.calls(part.name)
    directories = (part.chosen.directory, build.chosen.directory)
    headers = tuple(sorted(h for directory in directories for h in directory.glob("*.h")))
    counts = (*_ALWAYS, Counts.COMPILER, repr(part.chosen.livepatch.objects))
    where = build, part.chosen.livepatch, flags_of(build.chosen, part)

    def ask(said: Said) -> None:
        from klpbuild.pipeline.listed import write_conditions

        write_conditions(*where, conditions)

    def call(said: Said) -> None:
        from klpbuild.pipeline.listed import compile_calls

        compile_calls(*where, calls, said)

    return (
        Step("COND", (conditions,), ask, headers, counts),
        Step("CC", (calls, calls.with_suffix(".o")), call, headers, counts),
    )


def _compile(build: Build, source: Path) -> Step:
    output = build.object_of(source)
    part = build.chosen.part_of(source)
    rule = output.with_suffix(".d")

    def run(said: Said) -> None:
        from klpbuild.pipeline.steps import compile_source
        from klpbuild.pipeline.tried import note_failed

        generated = source == build.paths.tables
        flags = source_flags(build.chosen, source)
        try:
            compile_source(build, source, output, said, generated=generated, flags=flags)
        except KlpError as error:
            if part is None or part not in build.tried:
                raise
            note_failed(part, output, error)

    return Step(
        "CC",
        (output, rule),
        run,
        (source,),
        (*_ALWAYS, Counts.COMPILER, *(["keep going"] if part in build.tried else [])),
        headers=(*((part.chosen.directory,) if part else ()), build.chosen.directory),
        rules=(rule,),
    )


def _inputs(build: Build, rules: tuple[Path, ...]) -> Step:
    """Make the step that compiles the object with the digest of the inputs.

    :param rules: of the user's sources: they name the headers.
    """
    chosen, paths = build.chosen, build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline.documents import compile_inputs

        compile_inputs(build, rules, said)

    described = tuple(map(meaning, chosen.files))
    return Step(
        "INPUTS",
        (paths.inputs, paths.inputs_list),
        run,
        (*rules, *chosen.livepatch.sources, *chosen.patches, *build.found),
        (*_ALWAYS, Counts.COMPILER, *described),
        headers=(chosen.directory, *(part.chosen.directory for part in chosen.parts)),
        rules=rules,
    )


def _link(build: Build, objects: tuple[Path, ...]) -> Step:
    paths = build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline import from_patch, joined, steps

        chosen = build.for_kernel()
        sources, made = chosen.livepatch.sources, build.without_failed((*objects, paths.inputs))
        joined.check_states(chosen, [(source, build.object_of(source)) for source in sources])
        if chosen.parts:
            parts = _objects_of_parts(build)
            joined.check_parts(build.kernel, parts, paths.symbols)
            functions = (f for entry in build.livepatch().objects for f in entry.functions)
            said.warnings += joined.old_copies(parts, functions)
        if chosen.patches:
            from_patch.link_extracted(build, made, said)
        else:
            steps.check_functions(chosen, made)
            steps.link(build, made, said.warnings.append)

    symbols = (paths.symbols,) if build.chosen.parts else ()
    inputs = (*build.found, *objects, paths.inputs, *symbols)
    counts = (*_ALWAYS, Counts.COMPILER, f"strip={build.strip}")
    return Step("LD [M]", (paths.linked,), run, inputs, counts)


def _objects_of_parts(build: Build) -> dict[str, Sequence[Path]]:
    """List the objects of each part, those of all patches together."""
    found: dict[str, Sequence[Path]] = {
        part.name: [build.object_of(source) for source in part.chosen.livepatch.sources]
        for part in build.for_kernel().parts
        if part.taken
    }
    if build.chosen.patches:
        found["a patch"] = Extracted.restore(build.paths.record).objects
    return found


def _dependencies(build: Build) -> Step:
    """Make the step that lists used symbols: those below are repeated when these change."""
    paths = build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline.symbol_steps import write_dependencies

        write_dependencies(build.kernel, paths.linked, paths.symbols, paths.dependencies)

    inputs, counts = (paths.linked, paths.symbols), (*_ALWAYS, Counts.MODULES)
    return Step("DEPENDS", (paths.dependencies,), run, inputs, counts)


def _convert(build: Build, own: tuple[Path, ...]) -> Step:
    """Make the step that converts and checks the module.

    :param own: the objects of the user's sources.
    """
    chosen, paths = build.chosen, build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline import steps
        from klpbuild.pipeline.fixes import all_fixes
        from klpbuild.request.matrix import Result

        report = steps.convert(build, build.without_failed(own), said)
        fixes = Extracted.read(paths.record).fixes if chosen.patches else ()
        fixes = all_fixes(build.for_kernel(), fixes)
        if chosen.parts:
            said.results += fix_table(fixes)
        result = Result.of_check(build.kernel.name, chosen.livepatch.name, report, fixes)
        result.write(paths.result)
        steps.note_digest(paths.module, paths.digest)
        said.results += (report.summary, steps.summary(paths.relocations))
        said.details += report.not_checked

    return Step(
        "KLP",
        (paths.module, paths.relocations, paths.result, paths.digest),
        run,
        (paths.linked, paths.dependencies, *build.found, *own),
        (*_ALWAYS, chosen.livepatch.content),
        after=(paths.symbols,),
    )


def _graph(build: Build) -> Step:
    paths = build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline.steps import write_graph

        write_graph(build)

    inputs = (paths.module, paths.dependencies)
    return Step("GRAPH", paths.graphs, run, inputs, _ALWAYS, after=(paths.symbols,))


def _documents(build: Build) -> Step:
    chosen, paths = build.chosen, build.paths

    def run(said: Said) -> None:
        from klpbuild.pipeline.documents import write_documents
        from klpbuild.pipeline.steps import check_unchanged

        check_unchanged(paths.module.read_bytes(), paths.module, paths.digest)
        write_documents(build)

    made = (paths.module, paths.relocations, paths.result, paths.digest)
    date = os.environ.get("SOURCE_DATE_EPOCH", "")
    return Step(
        "REPORT",
        paths.documents,
        run,
        (*made, paths.inputs_list, *build.found),
        (*_ALWAYS, Counts.COMPILER, chosen.livepatch.content, date),
        after=(paths.symbols, paths.dependencies),
    )


def steps_to(steps: Sequence[Step], output: Path) -> tuple[Step, ...]:
    """Select the steps that make a file, or what it is made from."""
    wanted, found = {output}, []
    for step in reversed(steps):
        if not wanted.isdisjoint(step.outputs):
            found.append(step)
            wanted.update(step.inputs)
    return tuple(reversed(found))


#: Callback that shows a step's messages.
Tell = Callable[[Step, Said], None]


def run_step(step: Step, directory: Path, tell: Tell) -> None:
    """Run a step, note how long it took, and show its messages, also when it fails.

    :param directory: the kernel's directory of outputs.
    """
    said = Said()
    try:
        with timed(directory, step.tag, step.outputs[0]):
            step.run(said)
    finally:
        tell(step, said)


def run_steps(
    steps: Sequence[Step],
    directory: Path,
    tell: Tell = lambda step, said: None,
    *,
    first: Step | None = None,
    begin: Callable[[Step], None] = lambda step: None,
) -> None:
    """Run steps in their order, all of them.

    :param directory: the kernel's directory of outputs.
    :param begin: told of each step before it is done.
    :param first: one that is shared with others, whose outputs stay where they are.
    :raises KlpError: by the first that fails; what it and those behind it wrote before is gone.
    """
    for step in steps:
        for output in step.outputs:
            output.unlink(missing_ok=True)
    for step in (*((first,) if first else ()), *steps):
        begin(step)
        run_step(step, directory, tell)
