"""From options to nodes: what is built from what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from SCons.Script import COMMAND_LINE_TARGETS

from klpbuild import steps
from klpbuild.errors import KlpError
from livepatch import actions, options

_WITHOUT_KERNEL = {
    "test": ["-m", "pytest", "-n", "auto", "-m", "not kernel and not boot"],
    "test-kernel": ["-m", "pytest", "-n", "2", "-m", "kernel or boot"],
    "benchmark": ["-m", "tests.benchmarks"],
}


def livepatches(env):
    """Make the nodes of all livepatches that the options name."""
    for name, words in _WITHOUT_KERNEL.items():
        env.AlwaysBuild(env.Alias(name, [], _runner(name, words)))
    if COMMAND_LINE_TARGETS and set(COMMAND_LINE_TARGETS) <= set(_WITHOUT_KERNEL):
        return
    try:
        _kernel_targets(env)
    except KlpError as error:
        for problem in error.problems:
            print(f"scons: error: {problem}", file=sys.stderr)
        sys.exit(2)


def _runner(name, words):
    def run(target, source, env):
        del target, source, env
        return subprocess.run([sys.executable, *words], check=False).returncode

    return actions.SCons.Action.Action(run, f"  TEST    {name}")


def _kernel_targets(env):
    chosen = steps.choose_livepatches(Path(env["livepatches"]), env["livepatch"])
    kernel = steps.locate_kernel(env["kernel"], Path("kernel-fixtures"), Path(env["KLP_BUILD"]))
    directory = Path(env["KLP_BUILD"]) / kernel.name
    log = directory / "build.log"
    env = env.Clone(KLP_KERNEL=kernel, KLP_LOG=str(log), V=env["V"])
    identity = env.Value(steps.identity(kernel), name="kernel")
    tools = env.Value(steps.tool_identity(kernel), name="tools")

    symbols = env.SymbolsKlp(str(directory / "symbols.klp"), [identity, tools])
    env.Alias("symbols", symbols)
    modules = [_livepatch(env, patch, directory, symbols, [identity, tools]) for patch in chosen]
    env.Alias("livepatch", modules)
    env.Default("livepatch")
    boot = env.Alias("boot", modules, _boot(kernel, chosen, modules))
    env.AlwaysBuild(boot)


def _livepatch(env, livepatch, directory, symbols, identities):
    work = directory / livepatch.module
    env = env.Clone(KLP_MODULE=livepatch.module, KLP_DIRECTORY=str(livepatch.directory))
    sources = [str(path) for path in livepatch.sources]
    objects = []
    if livepatch.config is not None:
        tables = env.LivepatchTables(str(work / "tables.c"), str(livepatch.config))
        env.Depends(tables, identities)
        sources += tables
    for source in sources:
        target = work / "objects" / f"{Path(str(source)).stem}.o"
        built = env.LivepatchObject(str(target), source)
        env.Depends(built, [*identities, *_included(env, target)])
        objects += built
    linked = env.LivepatchLink(str(work / "linked" / f"{livepatch.module}.ko"), objects)
    env.Depends(linked, identities)
    module = env.LivepatchConvert(
        [str(directory / f"{livepatch.module}.ko"), str(work / "relocations.json")],
        [linked, symbols],
    )
    env.Depends(module, identities)
    graph = env.ReferenceGraph(
        [str(work / f"graph.{kind}") for kind in steps.graph_kinds()], [module[0], symbols]
    )
    env.Depends(graph, identities)
    env.Alias("livepatch", graph)
    return module[0]


def _included(env, target):
    """The files that the last compilation read outside of the kernel tree."""
    return [env.File(str(path)) for path in steps.included_files(env["KLP_KERNEL"], target)]


def _boot(kernel, chosen, modules):
    def boot(target, source, env):
        return steps.boot(kernel, chosen, [Path(str(module)) for module in modules])

    return actions.SCons.Action.Action(actions.guarded_plain(boot), f"  BOOT    {kernel.release}")
