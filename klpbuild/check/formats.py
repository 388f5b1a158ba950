"""Write a report as text for people, JSON for machines and SARIF for dashboards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import klpbuild
from klpbuild.check.catalogue import RULES
from klpbuild.check.rule import Finding, Report, Rule, Severity, Unchecked
from klpbuild.errors import Problem, printable
from klpbuild.terminal.shown import coloured, place_of

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(reports: Sequence[Report], *, colour: bool = False, verbose: bool = False) -> str:
    """Write one line a finding, then what the kernel says and what to do, then a summary.

    :param verbose: list every rule that could not be checked.
    """
    lines: list[str] = []
    for report in reports:
        for finding in report.findings:
            lines += _finding(report, finding, colour)
        lines += _not_checked(report, verbose)
        lines.append(printable(f"{report.file}: {report.summary}"))
    return "\n".join(lines) + "\n"


def _finding(report: Report, finding: Finding, colour: bool) -> list[str]:
    rule = finding.rule
    word = rule.severity.word
    if colour:
        word = coloured(word, word)
    where = f"{report.file}:{finding.where}" if finding.where else report.file
    lines = [printable(f"{where}: ") + word + printable(f": {finding.what} [{rule.identifier}]")]
    if finding.says:
        lines.append(printable(f"  the kernel {finding.effect.value}: {finding.says}"))
    else:
        lines.append(printable(f"  the kernel {finding.effect.value}"))
    if rule.severity is not Severity.NOTE:
        lines.append(printable(f"  {rule.why}"))
    return [*lines, printable(f"  {finding.hint}")]


def _not_checked(report: Report, verbose: bool) -> Iterable[str]:
    for unchecked in report.unchecked:
        if unchecked.about or verbose:
            about = f"{unchecked.about}: " if unchecked.about else ""
            rule = unchecked.rule
            text = f"{about}not checked: {rule.title} [{rule.identifier}]: {unchecked.why}"
            yield printable(f"{report.file}: {text}")
    if not verbose:
        yield from (printable(f"{report.file}: {line}") for line in report.not_checked)


def as_json(reports: Sequence[Report]) -> str:
    """Write the stable schema that docs/check.md describes."""
    document = {"version": 1, "reports": [_report(report) for report in reports]}
    return json.dumps(document, indent=1) + "\n"


def _report(report: Report) -> dict[str, Any]:
    return {
        "file": report.file,
        "kernel": report.kernel,
        "summary": report.summary,
        "would_load": report.would_load,
        "checked": report.checked,
        "findings": [
            {
                "rule": f.rule.identifier,
                "severity": f.rule.severity.word,
                "effect": f.effect.name.lower(),
                "what": f.what,
                "where": f.where,
                "kernel_says": f.says,
                "why": f.rule.why,
                "hint": f.hint,
            }
            for f in report.findings
        ],
        "unchecked": [_unchecked(u) for u in report.unchecked],
    }


def _unchecked(unchecked: Unchecked) -> dict[str, str]:
    return {
        "rule": unchecked.rule.identifier,
        "why": unchecked.why,
        "about": unchecked.about,
    }


def as_sarif(reports: Sequence[Report], problems: Sequence[Problem] = ()) -> str:
    """Write SARIF 2.1.0, one run.

    :param problems: why there is no module, or none that can be read: results of the rule
        ``refused``.
    """
    driver = {
        "name": "klpbuild check",
        "version": klpbuild.__version__,
        "rules": [*(_sarif_rule(rule) for rule in RULES), _REFUSAL],
    }
    results = [_sarif_result(report, f) for report in reports for f in report.findings]
    results += map(_sarif_problem, problems)
    run = {"tool": {"driver": driver}, "results": results}
    document = {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1) + "\n"


#: The rule that stands for klpbuild's own refusals.
_REFUSAL = {
    "id": "refused",
    "shortDescription": {"text": "cannot become a livepatch"},
    "fullDescription": {"text": "What is asked for cannot be a livepatch, or cannot be read."},
    "defaultConfiguration": {"level": "error"},
}


def _sarif_problem(problem: Problem) -> dict[str, Any]:
    text = "\n".join(filter(None, (problem.what, problem.why, problem.hint)))
    result: dict[str, Any] = {
        "ruleId": "refused",
        "level": "error",
        "message": {"text": printable(text, keep="\n\t")},
    }
    place = place_of(problem.where)
    if place is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": quote(place.file.as_posix())}}
        if place.line:
            physical["region"] = {"startLine": place.line}
        result["locations"] = [{"physicalLocation": physical}]
    elif problem.where:
        logical = {"fullyQualifiedName": printable(problem.where)}
        result["locations"] = [{"logicalLocations": [logical]}]
    return result


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.identifier,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.hint},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _sarif_result(report: Report, finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(report.file)}}}
    if finding.where:
        place["logicalLocations"] = [{"fullyQualifiedName": finding.where}]
    said = f"\nThe kernel says: {finding.says}" if finding.says else ""
    return {
        "ruleId": finding.rule.identifier,
        "level": _LEVELS[finding.rule.severity],
        "message": {"text": f"{finding.what}{said}"},
        "locations": [place],
    }
