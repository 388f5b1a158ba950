"""Make the table of rules in docs/check.md, from the catalogue and observed.json.

Run ``python -m tests.check.documentation`` to write it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from klpbuild.arch import ARCHITECTURES
from klpbuild.check.catalogue import RULES
from klpbuild.check.rule import Effect, Needs, Rule, Wording
from tests.check.breaks import BREAKS

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
OBSERVED = Path(__file__).with_name("observed.json")

#: Rules that tests/check/test_truth.py tries without a module that breaks them.
SITUATIONS = ("KLP201", "KLP606", "KLP607")
#: Rules that nothing tries, and why.
_NOT_TRIED = {
    "KLP204": "no kernel without livepatch is at hand",
    "KLP118": "by the campaign below",
    "KLP119": "by the campaign below",
    "KLP424": "by the campaign below",
    "KLP425": "by the campaign below",
    "KLP426": "by the campaign below",
    "KLP427": "by the campaign below",
    "KLP428": "by the campaign below",
    "KLP432": "another machine",
    "KLP433": "another machine",
    "KLP434": "another machine",
    "KLP604": "no module of this kernel has such a symbol",
    "KLP605": "to the kernel it is a symbol like any other",
    "KLP608": "nothing that a kernel could show",
}

_BEGIN, _END = "<!-- rules -->\n", "<!-- end of rules -->\n"


def page() -> str:
    """The text of docs/check.md with its table of rules made anew."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    record: dict[str, dict[str, str]] = json.loads(OBSERVED.read_text())
    titles = ["rule", "severity", "kernels", "needs", "what is wrong", "predicted"]
    titles += [f"observed on {release}" for release in record]
    lines = [_row(titles), _row(["---"] * len(titles))]
    lines += [_row(_cells(rule, record)) for rule in RULES]
    return "".join([before, _BEGIN, *lines, _END, after])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _cells(rule: Rule, record: dict[str, dict[str, str]]) -> list[str]:
    needs = {
        Needs.MODULE: "module",
        Needs.HEADERS: "headers",
        Needs.SYMBOLS: "symbols",
        Needs.CODE: "code",
        Needs.SYSTEM: "running system",
    }[rule.needs]
    found = [rule.identifier, rule.severity.word, _kernels(rule), needs, rule.title]
    return [*found, _predicted(rule), *(_observed(rule, seen) for seen in record.values())]


def _kernels(rule: Rule) -> str:
    first = f"{rule.since[0]}.{rule.since[1]}"
    until = f" to before {rule.until[0]}.{rule.until[1]}" if rule.until else ""
    names = "".join(f", {a.name}" for a in ARCHITECTURES if a.machine in rule.only)
    return (f"{first}{until}" if until else f"since {first}") + names


def _predicted(rule: Rule) -> str:
    words = {Effect.REFUSED: "refused", Effect.LATE: "refused late", Effect.ACCEPTED: "loaded",
             Effect.WARNED: "loaded", Effect.UNFORESEEN: "unforeseen"}[rule.effect]  # fmt: skip
    said = [f"`{_code(w.text)}`" + _since(rule, w) + _machines(w) for w in rule.says]
    return f"{words}: " + (", ".join(said) or "silent")


def _since(rule: Rule, wording: Wording) -> str:
    if wording.since == rule.says[0].since:
        return ""
    return f" (since {wording.since[0]}.{wording.since[1]})"


def _machines(wording: Wording) -> str:
    names = [a.name for a in ARCHITECTURES if a.machine in wording.machines]
    return f" ({', '.join(names)})" if names else ""


def _observed(rule: Rule, observed: dict[str, str]) -> str:
    if rule.identifier in observed:
        verdict, _, said = observed[rule.identifier].partition(": ")
        return f"{verdict}: {said if said.startswith('silent') else f'`{_code(said)}`'}"
    for broken in BREAKS:
        if broken.rule == rule.identifier:
            return f"not tried: {broken.not_tried}" if broken.not_tried else "no rule there"
    return f"not tried: {_NOT_TRIED[rule.identifier]}"


def _code(text: str) -> str:
    visible = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return visible.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
