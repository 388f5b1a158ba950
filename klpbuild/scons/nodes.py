"""Make the SCons nodes of one kernel from the table of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.compiler.log import BuildLog
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.package.finish import Finish
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.finishing import finish_steps
from klpbuild.pipeline.identity import compiler_identity, identities, tool_identity
from klpbuild.pipeline.paths import SYMBOLS, Paths
from klpbuild.pipeline.table import Counts, Step, livepatch_steps, symbols_step
from klpbuild.request.finish import plan
from klpbuild.request.matrix import Cell
from klpbuild.request.variables import Variables
from klpbuild.scons.actions import complete, failing, step_nodes
from klpbuild.scons.literal import Environment, Node


@dataclass
class LivepatchNodes:
    """Nodes of one livepatch for one kernel.

    :ivar module: the node of the finished module, or one that fails; None if the
        livepatch is not for the kernel.
    :ivar result: the node of its `klpbuild.request.matrix.Result`, None if it cannot be built.
    :ivar others: further nodes that are made for it by default.
    :ivar signed: the node of the module as the kernel reads it: `module`, or with a signature.
    :ivar finished: the node of the file to install: `signed`, or compressed.
    """

    cell: Cell
    module: Node = None
    result: Node = None
    others: list[Node] = field(default_factory=list)
    signed: Node = None
    finished: Node = None


@dataclass
class KernelNodes:
    """Nodes of one kernel.

    :ivar env: the environment that it is built in.
    :ivar directory: of all its outputs.
    :ivar stands_for: nodes that stand for the kernel, the compiler and klpbuild, by `Counts`.
    :ivar symbols: the node of symbols.klp.
    :ivar finish: how its modules are finished, and where they are installed.
    :ivar epoch: the time that installed files get, None for that of the installation.
    :ivar boot: the node of its boot.
    """

    kernel: Kernel
    env: Environment
    directory: Path
    stands_for: dict[Counts | str, Node]
    finish: Finish
    epoch: int | None
    symbols: Node = None
    livepatches: list[LivepatchNodes] = field(default_factory=list)
    boot: Node = None

    @property
    def modules(self) -> list[Node]:
        """The nodes of all modules."""
        return [each.module for each in self.livepatches if each.module is not None]


def kernel_nodes(
    env: Environment, kernel: Kernel, cells: Sequence[Cell], variables: Variables
) -> KernelNodes:
    """Make the nodes of one kernel.

    :param cells: its livepatches, as asked for.
    :raises KlpError: when no module can be built for the kernel.
    """
    directory = Path(env["KLP_BUILD"]) / kernel.name
    how = plan(kernel, variables)
    without, whole = identities(kernel)
    stands_for: dict[Counts | str, Node] = {
        Counts.KERNEL: env.Value(without),
        Counts.MODULES: env.Value(whole),
        Counts.COMPILER: env.Value(compiler_identity(kernel)),
        Counts.KLPBUILD: env.Value(tool_identity()),
    }
    epoch = variables.source_date_epoch
    nodes = KernelNodes(kernel, env, directory, stands_for, how, epoch)
    steps = (symbols_step(kernel, directory / SYMBOLS),)
    nodes.symbols = _nodes_by_path(nodes, steps)[directory / SYMBOLS]
    log = BuildLog(directory / "build.log", echo=env["V"])
    options = variables.strip, variables.source, bool(env.GetOption("keep_going"))
    for cell in cells:
        made = LivepatchNodes(cell)
        try:
            if cell.error is not None:
                raise cell.error
            if cell.chosen is not None:
                paths = Paths.below(directory, cell.chosen.module)
                build = Build(kernel, cell.chosen, paths, log, *options)
                made = _livepatch(nodes, cell, build)
        except KlpError as error:
            node = failing(env, directory / f"livepatch-{cell.name}.ko", error)
            made = LivepatchNodes(cell, node, signed=node, finished=node)
        nodes.livepatches.append(made)
    return nodes


def _livepatch(nodes: KernelNodes, cell: Cell, build: Build) -> LivepatchNodes:
    paths = build.paths
    made = _nodes_by_path(nodes, livepatch_steps(build))
    module = made[paths.module]
    finished = list(_nodes_by_path(nodes, finish_steps(build, nodes.finish)).values())
    signed = finished[0] if nodes.finish.signer is not None else module
    others = [made[path] for path in (*paths.graphs, *paths.documents)]
    others += finished
    if build.record or build.tried:
        others.append(complete(nodes.env, made[paths.result]))
    last = finished[-1] if finished else module
    return LivepatchNodes(cell, module, made[paths.result], others, signed, last)


def _nodes_by_path(nodes: KernelNodes, steps: Sequence[Step]) -> dict[Path, Node]:
    """Make the nodes of what steps write."""
    return {
        path: node
        for step in steps
        for path, node in zip(
            step.outputs,
            step_nodes(nodes.env, step, nodes.directory, nodes.stands_for),
            strict=True,
        )
    }
