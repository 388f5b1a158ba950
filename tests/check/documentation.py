"""Make docs/check.md: the prose is here, the tables come from the catalogue and observed.json.

Run ``python -m tests.check.documentation`` to write it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from klpbuild.check.catalogue import RULES
from klpbuild.check.rule import Effect, Needs, Rule, Wording
from tests.check.breaks import BREAKS

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
OBSERVED = Path(__file__).with_name("observed.json")

_BEFORE = """\
# `klpbuild check` and `klpbuild explain`

`klpbuild check` says what the kernel will say of a livepatch module, before it does. It reads the
finished `.ko` as the kernel would, whoever made it: klpbuild, kpatch-build, klp-build or a human
hand. It shares no code with what makes modules here; it is the second opinion.

    $ klpbuild check livepatch-x.ko --kernel 6.1.0-47-cloud-amd64
    $ klpbuild check livepatch-x.ko                          # the rules of every kernel
    $ klpbuild check livepatch-x.ko --kernel /lib/modules/6.1.0-47-cloud-amd64/build
    $ klpbuild explain livepatch-x.ko meminfo_proc_show --kernel 6.1.0-47-cloud-amd64

What can be checked depends on what is at hand: the module alone, a kernel's headers (configuration,
Module.symvers), its symbols (symbols.klp: made when missing), its code (vmlinux, modules). The rules
that could not be checked are counted, and listed by `--verbose`.

| exit status | |
|---|---|
| 0 | no finding as bad as `--fail-on` (default `error`): the kernel would load it |
| 1 | there are findings |
| 2 | something could not be checked: no such file, no such kernel |

## The proof

With the kernel's code at hand, every relocation is applied in memory as the kernel would, the patched
function is disassembled, and each call and data access is traced to its final address. Where an
instruction is the same in the shipped function, it must lead to the same place; a symbol of the
same name at another address is an error (KLP605). `klpbuild explain` shows both functions side by
side: `|` marks an instruction that leads elsewhere, `<` and `>` one that only the old or the new
function has, `!` one that breaks KLP605. Above the listing stands what became of each symbol, and
why.

## `--format json`

One object: `version` (1; it changes when a field changes its meaning or goes) and `reports`, one for
each module:

| field | |
|---|---|
| `file`, `kernel` | the path as given; the kernel's release, empty without one |
| `summary` | the last line of the text |
| `would_load` | false when the kernel refuses the module itself |
| `checked` | how many rules were checked |
| `findings` | `rule`, `severity` (`note`, `warning`, `error`), `effect` (`refused`, `late`, `accepted`, `warned`), `what`, `where`, `kernel_says`, `why`, `hint` |
| `unchecked` | `rule`, `why`, and `about`: whom it concerns, empty for all |

`--format sarif` writes SARIF 2.1.0 for code-scanning dashboards.

## The rules

Predicted is what the rule says the kernel does, and its own words. Observed is what Linux
{kernel} did when a module that breaks just this rule was loaded in QEMU
(`tests/check/test_truth.py`); the modules are made from the samples meminfo and button by
`tests/check/breaks.py`. "Silent" is not harmless: the worst modules are those that the kernel loads.

"""

_AFTER = """
## What no check can see

The last three rules are the limits of livepatching itself (the kernel's
Documentation/livepatch/livepatch.rst): they depend on the running system, or on what code means.
Functions that the compiler inlined into others are not in the module's tables at all: `klpbuild
build` finds them by comparing objects; a hand-written livepatch must name the callers.
"""


def page() -> str:
    """The text of docs/check.md."""
    record: dict[str, Any] = json.loads(OBSERVED.read_text())
    lines = [_BEFORE.replace("{kernel}", record["kernel"])]
    lines.append("| rule | severity | kernels | needs | what is wrong | predicted | observed |\n")
    lines.append("|---|---|---|---|---|---|---|\n")
    lines += [_row(rule, record["observed"]) for rule in RULES]
    lines.append(_AFTER)
    return "".join(lines)


def _row(rule: Rule, observed: dict[str, str]) -> str:
    cells = (
        rule.identifier,
        rule.severity.word,
        _kernels(rule),
        {Needs.MODULE: "module", Needs.HEADERS: "headers", Needs.SYMBOLS: "symbols",
         Needs.CODE: "code", Needs.SYSTEM: "running system"}[rule.needs],
        rule.title,
        _predicted(rule),
        _observed(rule, observed),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def _kernels(rule: Rule) -> str:
    first = f"{rule.since[0]}.{rule.since[1]}"
    return f"{first} to before {rule.until[0]}.{rule.until[1]}" if rule.until else f"since {first}"


def _predicted(rule: Rule) -> str:
    words = {Effect.REFUSED: "refused", Effect.LATE: "refused late", Effect.ACCEPTED: "loaded",
             Effect.WARNED: "loaded"}[rule.effect]  # fmt: skip
    said = [f"`{_code(w.text)}`" + _since(rule, w) for w in rule.says]
    return f"{words}: " + (", ".join(said) or "silent")


def _since(rule: Rule, wording: Wording) -> str:
    return f" (since {wording.since[0]}.{wording.since[1]})" if wording != rule.says[0] else ""


def _observed(rule: Rule, observed: dict[str, str]) -> str:
    if rule.identifier in observed:
        verdict, _, said = observed[rule.identifier].partition(": ")
        return f"{verdict}: {said if said == 'silent' else f'`{_code(said)}`'}"
    for broken in BREAKS:
        if broken.rule == rule.identifier and broken.not_tried:
            return f"not tried: {broken.not_tried}"
    if rule.needs in (Needs.SYSTEM, Needs.CODE):
        return "-"
    return "not tried: it takes another kernel or configuration"


def _code(text: str) -> str:
    visible = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return visible.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
