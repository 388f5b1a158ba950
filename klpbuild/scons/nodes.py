"""The nodes of one kernel: what is built from what."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.compiler.driver import read_files
from klpbuild.compiler.log import BuildLog
from klpbuild.graph.formats import possible_formats
from klpbuild.kernel.tree import Kernel
from klpbuild.package.finish import Finish
from klpbuild.patch.series import stated_level
from klpbuild.pipeline.extracted import RECORD
from klpbuild.pipeline.identity import compiler_identity, identity, tool_identity
from klpbuild.report.inputs import meaning
from klpbuild.report.names import INPUTS, SUFFIXES
from klpbuild.request.finish import plan
from klpbuild.request.matrix import Cell
from klpbuild.scons import literal
from klpbuild.scons.actions import SCANNER, failing
from klpbuild.scons.release import finish

#: Objects that klpbuild makes itself; of the user's sources those of such names are elsewhere.
_MADE = ("tables", "inputs")


@dataclass
class LivepatchNodes:
    """What becomes of one livepatch for one kernel.

    :ivar module: the node of the finished module, or one that fails; None if the
        livepatch is not for the kernel.
    :ivar result: the node of its `klpbuild.request.matrix.Result`, None if it cannot be built.
    :ivar others: further nodes that are made for it by default.
    :ivar signed: the node of the module as the kernel reads it: `module`, or with a signature.
    :ivar finished: the node of the file to install: `signed`, or compressed.
    """

    cell: Cell
    module: object = None
    result: object = None
    others: list = field(default_factory=list)
    signed: object = None
    finished: object = None


@dataclass
class KernelNodes:
    """What is built for one kernel.

    :ivar env: an environment for further steps, with ``KLP_KERNEL`` and ``KLP_LOG``.
    :ivar directory: of all its outputs.
    :ivar identities: nodes that stand for the kernel without its modules, and for klpbuild.
    :ivar whole: the node that stands for the kernel with its modules.
    :ivar symbols: the node of symbols.klp.
    :ivar boot: the node of its boot.
    :ivar compiler: the node that stands for the compiler.
    :ivar finish: how its modules are finished, and where they are installed.
    :ivar epoch: the time that installed files get, None for that of the installation.
    """

    kernel: Kernel
    env: object
    directory: Path
    identities: list
    whole: object
    symbols: object
    livepatches: list[LivepatchNodes]
    boot: object = None
    compiler: object = None
    finish: Finish | None = None
    epoch: int | None = None

    @property
    def modules(self) -> list:
        """The nodes of all modules."""
        return [each.module for each in self.livepatches if each.module is not None]


def kernel_nodes(env, kernel, cells, variables):
    """Make the nodes of one kernel.

    :param cells: its livepatches, as asked for.
    :param variables: `klpbuild.request.variables.Variables`.
    :raises KlpError: when no module can be built for the kernel.
    """
    directory = Path(env["KLP_BUILD"]) / kernel.name
    log = BuildLog(directory / "build.log", echo=env["V"])
    env = env.Clone(
        KLP_KERNEL=kernel, KLP_LOG=log, KLP_STRIP=variables.strip, KLP_SOURCE=variables.source
    )
    how = plan(kernel, variables)
    tools = env.Value(tool_identity())
    identities = [env.Value(identity(kernel, modules=False)), tools]
    whole = env.Value(identity(kernel))
    symbols = env.SymbolsKlp(literal.file(env, directory / "symbols.klp"), [whole, tools])
    nodes = KernelNodes(kernel, env, directory, identities, whole, symbols[0], [])
    nodes.compiler = env.Value(compiler_identity(kernel))
    nodes.finish, nodes.epoch = how, variables.source_date_epoch
    nodes.livepatches = [_livepatch(nodes, cell) for cell in cells]
    return nodes


def _livepatch(nodes, cell):
    if cell.error is not None:
        path = nodes.directory / f"livepatch-{cell.name}.ko"
        node = failing(nodes.env, path, cell.error)
        return LivepatchNodes(cell, node, signed=node, finished=node)
    if cell.chosen is None:
        return LivepatchNodes(cell)
    chosen, env, directory = cell.chosen, nodes.env, nodes.directory
    identities, symbols = nodes.identities, nodes.symbols
    work = directory / chosen.module
    env = env.Clone(KLP_CHOSEN=chosen, KLP_SYMBOLS=str(symbols))
    linked = literal.file(env, work / "linked" / f"{chosen.module}.ko")
    tables = literal.file(env, work / "tables.c")
    description = env.Value(chosen.livepatch.content)
    record, extracted, made, own = [], [], [], []
    if chosen.patches:
        patches = [literal.file(env, path) for path in chosen.patches]
        extracted = env.LivepatchExtract(literal.file(env, work / RECORD), [symbols, *patches])
        record = extracted[:1]
        decided = chosen.livepatch.accepted, chosen.livepatch.objects
        env.Depends(extracted, env.Value(repr([stated_level(p) for p in chosen.patches])))
        env.Depends(extracted, [*identities, env.Value(repr(decided))])
        made = env.LivepatchTables(tables, record)
        inputs = _inputs(env, work, [])
        env.Depends(inputs, record)
        linked = env.LivepatchLinkExtracted(
            linked, [*record, _object(nodes, env, work, made[0])[0], inputs[0]]
        )
    else:
        objects = [_object(nodes, env, work, path) for path in chosen.livepatch.sources]
        own = [built for built, _ in objects]
        inputs = _inputs(env, work, [rule for _, rule in objects])
        if chosen.description is not None:
            made = env.LivepatchTables(tables, [])
            objects.append(_object(nodes, env, work, made[0]))
        linked = env.LivepatchLink(linked, [*(built for built, _ in objects), inputs[0]])
    # Both read symbols.klp, and are made again only when what they use of it changed, or what
    # the modules need that they use.
    used = env.LivepatchDependencies(literal.file(env, work / "dependencies"), [linked, symbols])
    env.Depends(used, nodes.whole)
    converted = env.LivepatchConvert(
        [
            literal.file(env, directory / f"{chosen.module}.ko"),
            literal.file(env, work / "relocations.json"),
            literal.file(env, work / "result.json"),
            literal.file(env, work / "sha256"),
        ],
        [linked, used, *record, *own],
    )
    graph = env.ReferenceGraph(
        [literal.file(env, directory / f"{chosen.module}.{kind}") for kind in possible_formats()],
        [converted[0], used],
    )
    reports = env.LivepatchDocuments(
        [literal.file(env, directory / f"{chosen.module}{suffix}") for suffix in SUFFIXES],
        [*converted, inputs[1], *record],
    )
    env.Depends(reports, [description, env.Value(os.environ.get("SOURCE_DATE_EPOCH", ""))])
    env.Requires([*converted, *graph, *reports], [symbols, used])
    env.Depends([*made, *inputs, *linked, used, *converted, *graph, *reports], identities)
    env.Depends([*made, *converted], description)
    # The compiler makes extracted objects, too, from the source tree.
    env.Depends([*extracted, *inputs, *linked, *reports], nodes.compiler)
    env.Depends(linked, env.Value(f"strip={env['KLP_STRIP']}"))
    env.Depends(extracted, env.Value(f"source={env['KLP_SOURCE']}"))
    signed, finished = finish(env, converted[0], converted[3], nodes.finish, directory)
    others = [*graph, *reports]
    others += dict.fromkeys(node for node in (signed, finished) if node is not converted[0])
    return LivepatchNodes(cell, converted[0], converted[2], others, signed, finished)


def _inputs(env, work, rules):
    """The object with the digest of all inputs, and the list of them."""
    chosen = env["KLP_CHOSEN"]
    files = [*chosen.livepatch.sources, *chosen.patches]
    inputs = env.LivepatchInputs(
        [literal.file(env, work / "inputs.o"), literal.file(env, work / INPUTS)],
        [*rules, *(literal.file(env, path) for path in files)],
        CPPPATH=[literal.directory(env, chosen.directory)],
    )
    if chosen.file is not None:
        env.Depends(inputs, env.Value(meaning(chosen.file)))
    for rule in rules:
        env.Depends(inputs, _included(env, Path(str(rule))))
    return inputs


def _object(nodes, env, work, source):
    """The object of a source, and the rule that names what it includes.

    :param source: its path or its node.
    """
    directory = literal.directory(env, env["KLP_CHOSEN"].directory)
    path = Path(str(source))
    users_own = path.stem in _MADE and path.parent != work
    target = work / ("sources" if users_own else "") / f"{path.stem}.o"
    source = literal.file(env, str(source))
    built = env.LivepatchObject(literal.file(env, target), source, CPPPATH=[directory])
    included = _included(env, target.with_suffix(".d"))
    env.Depends(built, [*nodes.identities, nodes.compiler, *included])
    return built


def _included(env, rule):
    """What an object was compiled from last time and the scanner does not find."""
    source, *others = [literal.file(env, path) for path in read_files(rule)] or [None]
    if not others:
        return []
    directory = literal.directory(env, env["KLP_CHOSEN"].directory)
    path = SCANNER.path(env.Override({"CPPPATH": [directory]}))
    found, waiting = set(), [source]
    while waiting:
        new = set(SCANNER(waiting.pop(), env, path)) - found
        found |= new
        waiting += new
    return [node for node in others if node not in found]
