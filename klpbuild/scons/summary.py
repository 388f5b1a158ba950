"""Show the result of each livepatch for each kernel when a run ends."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import SCons.Node
from SCons.Script import GetBuildFailures, GetOption

from klpbuild.check.rule import RefusedError
from klpbuild.cli import INTERRUPTED, OK, USAGE
from klpbuild.errors import KlpError, explained
from klpbuild.files.whole import write_file
from klpbuild.report.junit import Case, junit
from klpbuild.report.timings import done, timing_table
from klpbuild.request.chosen import Named
from klpbuild.request.matrix import Outcome, Result, table
from klpbuild.scons.actions import FAILURES
from klpbuild.scons.caching import hit_rate
from klpbuild.scons.literal import Environment, Node
from klpbuild.scons.nodes import KernelNodes, LivepatchNodes
from klpbuild.terminal.shown import show
from klpbuild.terminal.streams import flush_output


class Summary:
    """The results of a run, shown when it has ended.

    :ivar unusable: nodes that stand for kernels that cannot be used.
    """

    def __init__(self, env: Environment, named: Sequence[Named]) -> None:
        """Note the livepatches that are asked for.

        :param named: the livepatches that are asked for.
        """
        self.unusable: list[Node] = []
        self._env = env
        self._names = [each.name for each in named]
        self._parts: list[Callable[[], list[Result | None]]] = []

    def add(self, nodes: KernelNodes) -> None:
        """Add a kernel's livepatches."""
        self._parts.append(lambda: [_result(nodes, each) for each in nodes.livepatches])

    def add_unusable(self, word: str, error: KlpError, node: Node) -> None:
        """Add a kernel that cannot be used."""
        self.unusable.append(node)
        self._parts.append(lambda: [Result.of_error(word, name, error) for name in self._names])

    def show_at_the_end(self) -> None:
        """Let the run end with a table and the cache's hit rate, unless it builds nothing."""
        if not any(GetOption(name) for name in ("clean", "no_exec", "question")):
            atexit.register(self._end)

    def results(self) -> list[Result]:
        """List the result of each livepatch for each kernel; empty if none was asked for."""
        found = [result for part in self._parts for result in part() if result is not None]
        built = any(result.outcome is not Outcome.OTHER_KERNEL for result in found)
        return found if built else []

    def _end(self) -> None:
        """Show the results; what cannot be written and an interrupt set the exit status."""
        try:
            status = self._show()
        except KeyboardInterrupt:
            print("scons: interrupted", file=sys.stderr)
            status = INTERRUPTED
        if status != OK:
            flush_output()
            os._exit(status)  # nothing else ends Python from here with a status

    def _show(self) -> int:
        """Write and print the results.

        :returns: OK, or that a file could not be written.
        """
        results = self.results()
        status = written(partial(self._write, results))
        # A module that comes from the cache was not told of when it came.
        if len(results) > 1 or (results and self._env["cache"]):
            print("\n".join(table(results)))
        if self._env["cache"] and (rate := hit_rate(self._env)):
            print(rate)
        if self._env["timings"]:
            print("\n".join(timing_table(done())))
        return status

    def _write(self, results: list[Result]) -> None:
        """Write the index of outputs, and what continuous integration reads, if asked for."""
        if results:
            from klpbuild.pipeline.documents import write_index

            write_index(Path(self._env["KLP_BUILD"]))
        errors = list({id(error): error for error in FAILURES.values()}.values())
        write_reports(self._env, [_case(result) for result in results], errors)


def written(write: Callable[[], None]) -> int:
    """Write files, and show why one cannot be written.

    :returns: OK, or that a file could not be written.
    """
    try:
        write()
    except Exception as error:
        if (told := explained(error)) is None:
            raise
        for problem in told.problems:
            show(problem, "scons")
        return USAGE
    return OK


def write_reports(env: Environment, cases: Sequence[Case], errors: Sequence[KlpError]) -> None:
    """Write what continuous integration reads, if asked for: JUnit XML and SARIF.

    :param cases: the results, for JUnit XML.
    :param errors: what was refused, for SARIF.
    """
    if env["junit"]:
        write_file(Path(env["junit"]), junit("klpbuild", cases))
    if env["sarif"]:
        from klpbuild.check.formats import as_sarif

        refused = [e.report for e in errors if isinstance(e, RefusedError)]
        others = [e for e in errors if not isinstance(e, RefusedError)]
        problems = dict.fromkeys(problem for error in others for problem in error.problems)
        write_file(Path(env["sarif"]), as_sarif(refused, tuple(problems)).encode())


def _case(result: Result) -> Case:
    """Make a test case of a cell of the matrix: its kernel is the class."""
    skipped = result.text if result.outcome is Outcome.OTHER_KERNEL else ""
    failure = "" if result.good else result.text
    said = "" if failure or skipped else result.text
    return Case(result.kernel, result.livepatch, failure, skipped, said)


def _result(nodes: KernelNodes, livepatch: LivepatchNodes) -> Result | None:
    """Find the result of a livepatch; None when it was not asked for."""
    kernel, name = nodes.kernel.name, livepatch.cell.name
    if livepatch.module is None:
        return Result(kernel, name, Outcome.OTHER_KERNEL)
    if _is_done(livepatch.module) and _is_done(livepatch.result):
        result = Result.read(Path(str(livepatch.result)))
        return _after_boot(result, nodes.boot)
    error = _error(livepatch.module)
    if error is not None:
        return Result.of_error(kernel, name, error)
    if livepatch.module.get_state() == SCons.Node.no_state and not GetBuildFailures():
        return None
    return Result(kernel, name, Outcome.NOT_BUILT)


def _after_boot(result: Result, boot: Node) -> Result:
    """Add the boot's result, if the kernel was booted."""
    if boot is None:
        return result
    if str(boot) in FAILURES:
        return Result.of_error(result.kernel, result.livepatch, FAILURES[str(boot)])
    failed = any(failure.node is boot for failure in GetBuildFailures())
    return result.after_boot(not failed) if failed or _is_done(boot) else result


def _is_done(node: Node) -> bool:
    return node.get_state() in (SCons.Node.up_to_date, SCons.Node.executed)


def _error(node: Node) -> KlpError | None:
    """Find why a node was not built: its own error, or that of what it is built from."""
    if str(node) in FAILURES:
        return FAILURES[str(node)]
    if node.get_state() != SCons.Node.failed:
        return None
    found = (_error(child) for child in node.children())
    return next(filter(None, found), KlpError("see above"))
