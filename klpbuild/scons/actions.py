"""Make SCons nodes of build steps, run them, and show their messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import SCons.Action
import SCons.Builder
import SCons.Errors
from SCons.Scanner.C import CScanner

from klpbuild.compiler.driver import read_files
from klpbuild.errors import KlpError, explained, printable
from klpbuild.pipeline.table import Counts, Said, Step, run_step
from klpbuild.reach import reached
from klpbuild.request.matrix import Result
from klpbuild.scons import literal
from klpbuild.scons.literal import Environment, Node
from klpbuild.terminal.progress import elapsed
from klpbuild.terminal.shown import annotation, shown

#: Scanner for what sources include.
SCANNER = CScanner()

#: Errors of targets that could not be built, by the first target's path.
FAILURES: dict[str, KlpError] = {}


def guarded(function: Callable[..., object]) -> Callable[..., object]:
    """Convert errors of the user's input into one clean message."""
    return _Guarded(function)


class _Guarded:
    """A function of a node's targets and sources, with clean messages.

    No closure: SCons puts all that is in one, as a kernel's 30,000 modules, into the signature
    of the action, which says nothing here: nodes stand for what counts.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, target: list[Node], source: list[Node], env: Environment) -> object:
        paths = [Path(str(node)) for node in target], [Path(str(node)) for node in source]
        try:
            return self._function(*paths, env)
        except Exception as error:
            if (told := explained(error)) is None:
                raise
            FAILURES[str(target[0])] = told
            text = "\n".join(shown(problem) for problem in told.problems)
            for problem in told.problems:
                if note := annotation(problem):
                    print(note, flush=True)
            raise SCons.Errors.BuildError(node=target[0], errstr=text) from error


def failing(env: Environment, name: Path | str, error: KlpError) -> Node:
    """Make a node that cannot be built: `error` says why.

    :param name: what it is called in the message.
    """

    def action(target: list[Path], source: list[Path], env: Environment) -> None:
        raise error

    action = SCons.Action.Action(guarded(action), None)
    node = env.Alias(literal.alias(env, printable(str(name))), [], action)
    return env.AlwaysBuild(node)[0]


def complete(env: Environment, result: Node) -> Node:
    """Make a node that fails if patches or parts were left out of a livepatch.

    :param result: the node of its `klpbuild.request.matrix.Result`.
    """

    def action(target: list[Path], source: list[Path], env: Environment) -> None:
        from klpbuild.pipeline.fixes import left_out

        if (error := left_out(Result.read(source[0]).fixes)) is not None:
            raise error

    run = SCons.Action.Action(guarded(action), None)
    node: Node = env.Alias(literal.alias(env, f"patches of {result}"), [result], run)[0]
    with suppress(KlpError):  # it is missing or damaged, and made in this run
        if not all(fix.good for fix in Result.read(Path(result.get_internal_path())).fixes):
            env.AlwaysBuild(node)  # else all could be up to date
    return node


def step_nodes(
    env: Environment, step: Step, directory: Path, stands_for: Mapping[Counts | str, Node]
) -> list[Node]:
    """Make the nodes of what a step of the table writes.

    :param directory: the kernel's directory of outputs.
    :param stands_for: the nodes that stand for the kernel, the compiler and klpbuild, by `Counts`.
    """
    targets, sources = _files(env, step.outputs), _files(env, step.inputs)
    counts = [stands_for.get(each) or env.Value(each) for each in step.counts]
    env = env.Clone(KLP_STEP=step, KLP_DIRECTORY=directory)
    if step.headers:
        env["CPPPATH"] = [literal.directory(env, path) for path in step.headers]
    made = _builder(step.tag, bool(step.headers))(env, targets, sources)
    env.Depends(made, [*counts, *(node for rule in step.rules for node in _included(env, rule))])
    env.Requires(made, _files(env, step.after))
    if not step.shared:
        env.NoCache(made)
    return list(made)


def _files(env: Environment, paths: Iterable[Path]) -> list[Node]:
    return [literal.file(env, path) for path in paths]


@functools.cache
def _builder(tag: str, compiles: bool) -> Any:
    """Make the Builder of all steps of a tag.

    Their function is the same, which says in SCons' signatures nothing of what they do: klpbuild
    itself counts for each.
    """
    return SCons.Builder.Builder(
        action=SCons.Action.Action(guarded(_run), literal.announcement(tag)),
        source_scanner=SCANNER if compiles else None,
    )


def _run(target: list[Path], source: list[Path], env: Environment) -> None:
    def tell(step: Step, said: Said) -> None:
        # Of a file that no scanner finds the cache does not know until it is recorded.
        made = _files(env, target)
        known = {
            node for each in made for node in (*each.sources, *each.depends, *(each.implicit or ()))
        }
        if not known.issuperset(_files(env, said.read)):
            env.NoCache(made)
        side_by_side = env.GetOption("num_jobs") > 1
        if lines := said.lines(f"{target[0]}:" if side_by_side else "", verbose=env["V"]):
            print("\n".join(lines))  # in one piece

    with elapsed() if env.GetOption("num_jobs") == 1 else nullcontext():
        run_step(env["KLP_STEP"], env["KLP_DIRECTORY"], tell)


def _included(env: Environment, rule: Path) -> list[Node]:
    """List what a source was compiled from last time and the scanner does not find."""
    source, *others = _files(env, read_files(rule)) or [None]
    if not others:
        return []
    path = SCANNER.path(env)
    found = reached([source], lambda node: SCANNER(node, env, path))
    return [node for node in others if node not in found]
