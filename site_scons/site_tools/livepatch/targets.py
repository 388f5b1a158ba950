"""From options to nodes: what is built from what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from SCons.Action import Action
from SCons.Script import COMMAND_LINE_TARGETS

from klpbuild import steps
from klpbuild.chosen import choose_livepatches
from klpbuild.compiler.log import BuildLog
from klpbuild.errors import KlpError
from klpbuild.from_patch import RECORD
from klpbuild.vm import needs

from .actions import guarded

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
        environment = dict(os.environ)
        if name == "test-kernel":
            needs.provide()
            environment["KLPBUILD_REQUIRE_KERNEL"] = "1"
        return subprocess.run([sys.executable, *words], env=environment, check=False).returncode

    return Action(guarded(run), f"  TEST    {name}")


def _kernel_targets(env):
    build = Path(env["KLP_BUILD"])
    given = steps.GivenSymbols(env["vmlinux"], env["system_map"], env["kallsyms"])
    kernel = steps.locate_kernel(env["kernel"], Path("kernel-fixtures"), build, given)
    chosen = choose_livepatches(Path(env["livepatches"]), env["livepatch"], kernel)
    directory = build / kernel.name
    env = env.Clone(KLP_KERNEL=kernel, KLP_LOG=BuildLog(directory / "build.log", echo=env["V"]))
    tools = env.Value(steps.tool_identity(kernel))
    identities = [env.Value(steps.identity(kernel, modules=False)), tools]

    symbols = env.SymbolsKlp(
        str(directory / "symbols.klp"), [env.Value(steps.identity(kernel)), tools]
    )
    env.Alias("symbols", symbols)
    modules = [_livepatch(env, patch, directory, symbols, identities) for patch in chosen]
    env.Alias("livepatch", modules)
    env.Default("livepatch")
    watch = [name for name in env["watch"].split(",") if name]
    env.AlwaysBuild(env.Alias("boot", modules, _boot(kernel, modules, watch)))


def _livepatch(env, chosen, directory, symbols, identities):
    work = directory / chosen.module
    env = env.Clone(KLP_CHOSEN=chosen, KLP_SYMBOLS=str(symbols[0]))
    linked = str(work / "linked" / f"{chosen.module}.ko")
    description = env.Value(repr(chosen.livepatch))
    if chosen.patches:
        record = env.LivepatchExtract(
            str(work / RECORD), [symbols, *(str(path) for path in chosen.patches)]
        )
        env.Depends(record, env.Value(repr(chosen.livepatch.accept_layouts)))
        tables = env.LivepatchTables(str(work / "tables.c"), record)
        linked = env.LivepatchLinkExtracted(
            linked, [record, _object(env, work, tables[0], identities)]
        )
        made = [*record, *tables]
    else:
        record = []
        objects = [_object(env, work, str(path), identities) for path in chosen.livepatch.sources]
        made = []
        if chosen.description is not None:
            made = env.LivepatchTables(str(work / "tables.c"), [])
            objects.append(_object(env, work, made[0], identities))
        linked = env.LivepatchLink(linked, objects)
    # Both read symbols.klp, and are made again only when symbols that they use changed.
    used = env.LivepatchDependencies(str(work / "dependencies"), [linked, symbols])
    module, report = env.LivepatchConvert(
        [str(directory / f"{chosen.module}.ko"), str(work / "relocations.json")],
        [linked, used, *record],
    )
    graph = env.ReferenceGraph(
        [str(directory / f"{chosen.module}.{kind}") for kind in steps.GRAPH_KINDS],
        [module, used],
    )
    env.Requires([module, report, *graph], symbols)
    env.Depends([*made, *linked, used, module, report, *graph], identities)
    env.Depends([n for n in made if n not in record], description)
    env.Depends([module, report], description)
    env.Alias("livepatch", graph)
    return module


def _object(env, work, source, identities):
    directory = env["KLP_CHOSEN"].directory
    target = work / f"{Path(str(source)).stem}.o"
    (built,) = env.LivepatchObject(str(target), source, CPPPATH=[str(directory)])
    included = steps.included_files(env["KLP_KERNEL"], target, directory)
    env.Depends(built, [*identities, *(env.File(str(path)) for path in included)])
    return built


def _boot(kernel, modules, watch):
    def boot(target, source, env):
        return steps.boot(kernel, [Path(str(module)) for module in modules], watch)

    return Action(guarded(boot), f"  BOOT    {kernel.release}")
