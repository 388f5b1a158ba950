"""Write a trial as a person would have seen it at the guest's console."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from klpbuild.vm.result import GroupResult, Status, StepResult
from klpbuild.vm.scenario import ReadFile, ReadRedirected, holds_itself, module_name
from klpbuild.vm.trial import FileSeen, Trial, masked

#: Longer files are shown by their beginning.
_LINES_MAX = 8

_SIGNS = {
    Status.PASSED: "ok",
    Status.FAILED: "FAILED",
    Status.SKIPPED: "skipped",
    Status.LOST: "LOST",
    Status.NOT_RUN: "not run",
}


def transcript(trial: Trial) -> Iterator[str]:
    """Write the trial, line by line: each step, what it showed, the kernel's log, the verdict."""
    seen = {file.path: file for file in trial.files}
    times: dict[str, int] = {}
    for step in trial.result.steps:
        may_fail = step.planned.fails is None and step.exit_status
        yield f"{'not done' if may_fail else _SIGNS[step.status]:>8}  {step.title}"
        if isinstance(step.planned.step, ReadFile) and step.exit_status == 0:
            path = step.planned.step.path
            time = times.get(path, 0)
            times[path] = time + 1
            yield from _file(seen[path], time, step.output)
        elif step.output and not isinstance(step.planned.step, ReadRedirected):
            yield from (f"          | {line}" for line in step.output.splitlines())
        yield from (f"          {line}" for line in step.log)
    yield from _states(trial.result)
    for owner, names in trial.redirected.items():
        yield f"          redirected in {owner}: {', '.join(names)}"
    yield from (f"          not tried: {text}" for text in trial.not_tried)
    yield ""
    stay = [module_name(path) for path in trial.wanted.livepatches if holds_itself(path)]
    if trial.passed and stay:
        yield f"{trial.result.group.name}: loaded, patched and disabled."
        yield f"{', '.join(stay)} stays loaded: pointers to it may be in use."
    elif trial.passed:
        yield f"{trial.result.group.name}: loaded, patched, disabled and unloaded."
    else:
        yield from (f"FAILED: {problem}" for problem in trial.problems)


def _file(seen: FileSeen, time: int, text: str) -> Iterator[str]:
    """Show the file itself the first time, later what differs from then."""
    if time == 0:
        lines = text.splitlines()
        yield from (f"          | {line}" for line in lines[:_LINES_MAX])
        if len(lines) > _LINES_MAX:
            yield f"          | ... {len(lines) - _LINES_MAX} more lines"
        return
    old, new = (seen.before or "").splitlines(), text.splitlines()
    added, removed = _changes(old, new)
    if not added and not removed:
        yield "          = as before, but for numbers that change by themselves"
    for sign, lines in (("+", added), ("-", removed)):
        yield from (f"          {sign} {line}" for line in lines[:_LINES_MAX])
        if len(lines) > _LINES_MAX:
            yield f"          {sign} ... {len(lines) - _LINES_MAX} more lines"


def _changes(before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    """Compare two texts: the lines that came and those that went."""
    added: list[str] = []
    removed: list[str] = []
    old, new = masked("\n".join(before)), masked("\n".join(after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for word, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if word != "equal":
            removed += before[old_start:old_end]
            added += after[new_start:new_end]
    return added, removed


def _states(result: GroupResult) -> Iterator[str]:
    last = next((step.state for step in reversed(result.steps) if step.state), None)
    if last is not None and last.taint_letters:
        yield f"          the kernel is tainted: {last.taint_letters}"


def as_json(trial: Trial) -> dict[str, Any]:
    """Turn the trial into what can be written as JSON."""
    return {
        "livepatches": [str(path) for path in trial.wanted.livepatches],
        "passed": trial.passed,
        "problems": list(trial.problems),
        "redirected": {owner: list(names) for owner, names in trial.redirected.items()},
        "not_tried": list(trial.not_tried),
        "files": [{**asdict(file), "changed": file.changed} for file in trial.files],
        "steps": [_step_as_json(step) for step in trial.result.steps],
        "end": trial.result.end.value if trial.result.end else None,
    }


def _step_as_json(step: StepResult) -> dict[str, Any]:
    return {
        "step": step.title,
        "status": step.status.value,
        "exit_status": step.exit_status,
        "output": step.output,
        "log": [asdict(line) for line in step.log],
        "faults": [{"kind": f.kind.value, "title": f.title} for f in step.faults],
        "state": asdict(step.state) if step.state else None,
        "problem": step.problem,
    }
