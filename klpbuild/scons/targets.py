"""Make all nodes and targets that scons' command line can name."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import SCons.Defaults
from SCons.Action import Action
from SCons.Script import ARGUMENTS, COMMAND_LINE_TARGETS, GetOption

from klpbuild.compiler.driver import compile_commands
from klpbuild.compiler.launcher import with_launcher
from klpbuild.errors import KlpError, Problems, explained, printable
from klpbuild.files.whole import write_file
from klpbuild.package.formats import wanted_formats
from klpbuild.pipeline.build import source_flags
from klpbuild.report.junit import Case
from klpbuild.report.names import PAGE
from klpbuild.request.chosen import named_livepatches, with_replace
from klpbuild.request.given import newest_kernel
from klpbuild.request.matrix import cells, locate_kernels
from klpbuild.request.variables import read_boolean, read_variables
from klpbuild.scons import dist, literal, release
from klpbuild.scons.actions import failing, guarded
from klpbuild.scons.arguments import read_options
from klpbuild.scons.caching import use_cache
from klpbuild.scons.literal import Environment, Node
from klpbuild.scons.nodes import KernelNodes, kernel_nodes
from klpbuild.scons.outputs import Outputs, note_rewritten
from klpbuild.scons.summary import Summary, write_reports, written
from klpbuild.terminal.shown import show


def livepatches(env: Environment) -> list[KernelNodes]:
    """Make the nodes of all livepatches and kernels that the options name.

    :returns: a `KernelNodes` for each kernel, for further steps.
    """
    SCons.Defaults.DefaultEnvironment()  # else job threads race to make one
    read_options(env)
    try:
        outputs = Outputs(env)
        every = _kernel_targets(env)
        outputs.remove_changed()
        return every
    except Exception as error:
        if (told := explained(error)) is None:
            raise
        for problem in told.problems:
            show(problem, "scons")
        if not any(GetOption(name) for name in ("clean", "no_exec", "question")):
            case = Case(env["kernel"], env["livepatch"], "\n".join(map(str, told.problems)))
            written(partial(write_reports, env, [case], [told]))
        sys.exit(2)


def _kernel_targets(env: Environment) -> list[KernelNodes]:
    """Make the nodes of all kernels.

    What cannot be read or found ends the run at once; with ``-k`` it becomes a node that
    fails, and the rest is built.

    :raises KlpError: with everything that is wrong.
    """
    use_cache(env)
    for name in ("V", "timings"):
        env[name] = read_boolean(name, str(env[name])) is True
    variables = replace(read_variables(ARGUMENTS), kallsyms=env["kallsyms"])
    if variables.source_date_epoch is not None:  # for the programs that the build runs
        os.environ["SOURCE_DATE_EPOCH"] = str(variables.source_date_epoch)
    fixtures, build = Path("kernel-fixtures"), Path(env["KLP_BUILD"])
    words = variables.kernel or env["kernel"] or newest_kernel("kernel=")
    modules = [Path(name).expanduser() for name in env["modules"].split(",") if name]
    located = locate_kernels(words, fixtures, build, variables, modules)
    named = named_livepatches(Path(env["livepatches"]), env["livepatch"])
    if variables.replace is not None:
        named = with_replace(named, variables.replace)
    kernels = [each.kernel for each in located if each.kernel is not None]

    go_on = GetOption("keep_going")
    summary, problems = Summary(env, named), Problems()
    every: list[KernelNodes] = []
    for each in located:
        try:
            if each.kernel is None:
                assert each.error is not None
                raise each.error
            asked = cells(named, each.kernel, kernels)
            for cell in asked:
                problems.note(cell.error)
            if go_on or not problems:
                kernel = with_launcher(each.kernel, env["launcher"])
                every.append(kernel_nodes(env, kernel, asked, variables))
                summary.add(every[-1])
        except KlpError as error:
            problems.note(error)
            node = failing(env, f"kernel={each.word}", error)
            summary.add_unusable(each.word, error, node)
    if not go_on:
        problems.check()
    if not problems and not any(nodes.modules for nodes in every):
        raise KlpError(
            "no livepatch is for " + ", ".join(kernel.name for kernel in kernels),
            where=env["livepatches"],
            hint="The key kernels of their livepatch.toml restricts them to others.",
        )
    _aliases(env, every, summary.unusable)
    _release(env, every, summary.unusable)
    env.Alias("compile_commands", [_compile_commands(env, every), *summary.unusable])
    summary.show_at_the_end()
    return every


def _aliases(env: Environment, every: list[KernelNodes], unusable: list[Node]) -> None:
    """Make the targets of the command line."""
    watch = [name for name in env["watch"].split(",") if name]
    for nodes in every:
        modules = nodes.modules
        if modules:
            name = literal.alias(env, f"boot {nodes.kernel.name}")
            boot = env.Alias(name, [*modules, *_pages(nodes)], _boot(nodes, watch))
            (nodes.boot,) = env.AlwaysBuild(boot)
            env.Alias("boot", boot)
        env.Alias("symbols", nodes.symbols)
        env.Alias("livepatch", modules)
        env.Alias("livepatch", [other for each in nodes.livepatches for other in each.others])
    for name in ("boot", "symbols", "livepatch"):
        env.Alias(name, unusable)
    env.Default("livepatch")


def _release(env: Environment, every: list[KernelNodes], unusable: list[Node]) -> None:
    """Make the targets of a release."""
    for nodes in every:
        for name, node in release.targets(nodes, env["livepatch"] == "all").items():
            env.Alias(name, node)
    formats = wanted_formats(env["packages"])
    for nodes in every if _wants_packages() else ():
        for each in nodes.livepatches:
            if each.cell.chosen is not None:
                env.Alias("dist", dist.packages(nodes, each, formats))
            elif each.module is not None:
                env.Alias("dist", each.module)  # which says why it cannot be built
    for name in ("install", "uninstall", "check", "dist"):
        env.Alias(name, unusable)


def _compile_commands(env: Environment, every: list[KernelNodes]) -> Node:
    """Make the node of ``build/compile_commands.json``, which editors' tools look for."""

    def write(target: list[Path], source: list[Path], env: Environment) -> None:
        entries = [
            entry
            for nodes in every
            for livepatch in nodes.livepatches
            if (chosen := livepatch.cell.chosen) is not None
            for entry in compile_commands(
                nodes.kernel,
                chosen.livepatch.sources,
                chosen.livepatch.module_name,
                partial(source_flags, chosen),
            )
        ]
        write_file(target[0], (json.dumps(entries, indent=1) + "\n").encode())

    path = Path(env["KLP_BUILD"]) / "compile_commands.json"
    action = Action(guarded(write), literal.announcement("GEN"))
    node = env.Command(literal.file(env, path), [], action)
    env.NoCache(node)
    return env.AlwaysBuild(node)


def _wants_packages() -> bool:
    """Tell whether the command line names packages: their inputs take git to find."""
    return any(name == "dist" or "/dist/" in name for name in map(str, COMMAND_LINE_TARGETS))


def _pages(nodes: KernelNodes) -> list[Node]:
    """List the report pages of a kernel's livepatches."""
    others = (node for livepatch in nodes.livepatches for node in livepatch.others)
    return [node for node in others if str(node).endswith(PAGE)]


def _boot(nodes: KernelNodes, watch: Sequence[str]) -> Any:
    kernel, modules = nodes.kernel, [Path(str(module)) for module in nodes.modules]

    def boot(target: list[Path], source: list[Path], env: Environment) -> int:
        from klpbuild.pipeline import steps
        from klpbuild.report.boot import add_boot

        lines, passed = steps.boot(kernel, modules, watch)
        for page in _pages(nodes):
            add_boot(Path(str(page)), lines, passed=passed)
            note_rewritten(page)
        # In one piece: another kernel may boot meanwhile.
        print("\n".join(printable(line, keep="\t") for line in lines))
        return 0 if passed else 1

    return Action(guarded(boot), literal.announcement("BOOT", kernel.release))
