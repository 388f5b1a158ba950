"""The Builders: each calls one function of klpbuild and says so in a short line.

An action imports what it calls: a build in which nothing is done does not wait for it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import SCons.Action
import SCons.Builder
import SCons.Errors
from SCons.Scanner.C import CScanner

from klpbuild.errors import KlpError, explained, printable
from klpbuild.names import index_path
from klpbuild.package.finish import compress_file
from klpbuild.pipeline.extracted import RECORD, archive_path
from klpbuild.report.timings import timed
from klpbuild.request.matrix import Result
from klpbuild.scons import literal
from klpbuild.terminal.shown import annotation, shown

#: Finds what sources include.
SCANNER = CScanner()

#: Why targets could not be built, by the first target's path.
FAILURES: dict[str, KlpError] = {}


def guarded(function):
    """Turn what is wrong with the user's input into one clean message."""

    @functools.wraps(function)
    def action(target, source, env):
        try:
            return function([Path(str(t)) for t in target], [Path(str(s)) for s in source], env)
        except Exception as error:
            if (told := explained(error)) is None:
                raise
            FAILURES[str(target[0])] = told
            text = "\n".join(shown(problem) for problem in told.problems)
            for problem in told.problems:
                if note := annotation(problem):
                    print(note, flush=True)
            raise SCons.Errors.BuildError(node=target[0], errstr=text) from error

    return action


def _tell(env, target, *lines):
    """Say what a step found; in one piece, with its target when steps run side by side."""
    heading = [f"{target}:"] if env.GetOption("num_jobs") > 1 else []
    shown = (printable(line, keep="\n\t") for line in [*heading, *lines])
    print("\n".join(f"          {line}" for line in shown))


def failing(env, name, error):
    """A node that cannot be built: `error` says why.

    :param name: what it is called in the message.
    """

    def action(target, source, env):
        raise error

    action = SCons.Action.Action(guarded(action), None)
    node = env.Alias(literal.alias(env, printable(str(name))), [], action)
    return env.AlwaysBuild(node)[0]


def _timed(tag, function):
    """Note how long a step takes, for the report page."""

    def action(target, source, env):
        with timed(env["KLP_LOG"].path.parent, tag, target[0]):
            function(target, source, env)

    return action


def _compile(target, source, env):
    from klpbuild.pipeline import steps

    read = steps.compile_source(
        env["KLP_KERNEL"], source[0], target[0], env["KLP_CHOSEN"].module, env["KLP_LOG"]
    )
    # Of a file that no scanner finds the cache does not know until it is recorded.
    built, rule = (literal.file(env, path) for path in target)
    known = {*built.sources, *built.depends, *(built.implicit or ())}
    if not {literal.file(env, path) for path in read} <= known:
        env.NoCache([built, rule])


def _extract(target, source, env):
    from klpbuild.pipeline import from_patch

    symbols, *patches = source
    extracted = from_patch.extract_patches(
        env["KLP_KERNEL"], patches, symbols, target[0].parent, env["KLP_LOG"],
        env["KLP_CHOSEN"].livepatch.accepted, env["KLP_CHOSEN"].livepatch.objects,
    )  # fmt: skip
    extracted.write(target[0])
    _tell(env, target[0], *extracted.report)


def _tables(target, source, env):
    from klpbuild.pipeline import steps

    steps.write_tables(env["KLP_KERNEL"], _livepatch(source, env), target[0])


def _livepatch(source, env):
    """The livepatch as described, with the functions that were found in patches."""
    from klpbuild.pipeline import from_patch

    livepatch = env["KLP_CHOSEN"].livepatch
    records = [path for path in source if path.name == RECORD]
    return from_patch.described(livepatch, *records) if records else livepatch


def _link(target, source, env):
    from klpbuild.pipeline import steps

    steps.link(env["KLP_KERNEL"], env["KLP_CHOSEN"], source, target[0], env["KLP_LOG"],
               env["KLP_STRIP"])  # fmt: skip


def _link_extracted(target, source, env):
    from klpbuild.pipeline import from_patch

    record, *made = source
    from_patch.link_extracted(
        env["KLP_KERNEL"], env["KLP_CHOSEN"].module, record, made, target[0], env["KLP_LOG"],
        env["KLP_STRIP"],
    )  # fmt: skip


def _inputs(target, source, env):
    from klpbuild.pipeline import documents

    rules = [path for path in source if path.suffix == ".d"]
    documents.compile_inputs(env["KLP_KERNEL"], env["KLP_CHOSEN"], rules, target[0], env["KLP_LOG"])


def _documents(target, source, env):
    from klpbuild.pipeline import documents, steps

    module, _, _, digest, *_ = source
    steps.check_unchanged(module.read_bytes(), module, digest)
    symbols = Path(env["KLP_SYMBOLS"])
    documents.write_documents(env["KLP_KERNEL"], env["KLP_CHOSEN"], module, symbols)


def _symbols(target, source, env):
    from klpbuild.pipeline import symbol_steps

    symbol_steps.write_symbols(env["KLP_KERNEL"], target[0])


def _dependencies(target, source, env):
    from klpbuild.pipeline import symbol_steps

    symbol_steps.write_dependencies(env["KLP_KERNEL"], source[0], source[1], target[0])


def _convert(target, source, env):
    from klpbuild.pipeline import steps

    functions = _livepatch(source, env).objects
    symbols = Path(env["KLP_SYMBOLS"])
    kernel, chosen = env["KLP_KERNEL"], env["KLP_CHOSEN"]
    module, relocations, result, digest = target
    objects = {path.stem: path for path in source if path.suffix == ".o"}
    sources = [(path, objects[path.stem]) for path in chosen.livepatch.sources]
    report = steps.convert(kernel, source[0], symbols, module, relocations, functions,
                           sources, chosen.livepatch.accepted.layouts)  # fmt: skip
    Result.of_check(kernel.name, chosen.livepatch.name, report).write(result)
    steps.note_digest(module, digest)
    _tell(env, module, report.summary, steps.summary(relocations))


def _graph(target, source, env):
    from klpbuild.pipeline import steps

    steps.write_graph(env["KLP_KERNEL"], source[0], Path(env["KLP_SYMBOLS"]), target)


def _sign(target, source, env):
    from klpbuild.pipeline import steps

    module, digest = source
    symbols, signer = Path(env["KLP_SYMBOLS"]), env["KLP_FINISH"].signer
    steps.sign_checked(env["KLP_KERNEL"], module, digest, symbols, signer, target[0])


def _compress(target, source, env):
    compress_file(source[0], env["KLP_FINISH"].compression, target[0])


#: Name of the Builder, tag of the short line, function, files beside the first target.
_BUILDERS = (
    ("LivepatchObject", "CC", _compile, lambda path: [path.with_suffix(".d")]),
    ("LivepatchExtract", "EXTRACT", _extract, lambda path: [archive_path(path)]),
    ("LivepatchTables", "GEN", _tables, None),
    ("LivepatchInputs", "INPUTS", _inputs, None),
    ("LivepatchLink", "LD [M]", _link, None),
    ("LivepatchLinkExtracted", "LD [M]", _link_extracted, None),
    ("SymbolsKlp", "SYMBOLS", _symbols, lambda path: [index_path(path)]),
    ("LivepatchDependencies", "DEPENDS", _dependencies, None),
    ("LivepatchConvert", "KLP", _convert, None),
    ("ReferenceGraph", "GRAPH", _graph, None),
    ("LivepatchDocuments", "REPORT", _documents, None),
    ("LivepatchSign", "SIGN", _sign, None),
    ("LivepatchCompress", "PACK", _compress, None),
)


def builders(env):
    """The Builders by name; their targets and sources are nodes, see `literal`."""
    del env
    return {name: _builder(*rest) for name, *rest in _BUILDERS}


def _builder(tag, function, beside):
    """All that a step writes is a target, so that a cache has all of it."""

    def emitter(target, source, env):
        made = (literal.file(env, path) for path in beside(Path(str(target[0]))))
        return [*target, *made], source

    return SCons.Builder.Builder(
        action=SCons.Action.Action(guarded(_timed(tag, function)), literal.announcement(tag)),
        emitter=emitter if beside else None,
        source_scanner=SCANNER if function in (_compile, _inputs) else None,
    )
