"""The kinds of reasons for which klpbuild refuses a patch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from klpbuild.errors import Problem


@dataclass(frozen=True)
class Kind:
    """A kind of reasons.

    :ivar pattern: found in what klpbuild says.
    :ivar meaning: for readers of the table.
    """

    name: str
    pattern: str
    meaning: str


KINDS = (
    Kind(
        "does-not-compile-alone",
        r"does not compile",
        "needs a header's or another file's change that belongs to the same fix",
    ),
    Kind(
        "not-in-this-configuration",
        r"no object is made from",
        "no object of this kernel is made from the file",
    ),
    Kind(
        "changes-no-code",
        r"changes nothing in this kernel|changes no code",
        "compiles to the code that runs already",
    ),
    Kind(
        "init-only",
        r"^__(init|exit) code changed|is new in \.(?:(?:con_)?initcall|init\.)",
        "changes code that runs once, when the kernel or the module starts or ends",
    ),
    Kind(
        "data-changed",
        r"^data .* changed|^table .* changed",
        "changes initialised data that the running kernel has in use",
    ),
    Kind(
        "layout-changed",
        r"keeps its old layout",
        "changes the layout of a structure of which the running kernel has objects",
    ),
    Kind(
        "no-ftrace-entry",
        r"has no ftrace entry|changed, and cannot be livepatched",
        "changes a function that ftrace cannot enter",
    ),
    Kind(
        "kernel-thread",
        r"a kernel thread stays in it",
        "changes what a kernel thread runs until it is told to stop",
    ),
    Kind(
        "static-key",
        r"uses static .* key",
        "uses a static key that belongs to a module",
    ),
    Kind(
        "not-as-shipped",
        r"is not the function that .* ships",
        "a function compiles to other code than the kernel's",
    ),
    Kind("objtool", r"objtool", "objtool does not accept the extracted code"),
    Kind(
        "symbol-not-found",
        r"is not in this kernel|was not found in|is not defined by|is defined only by|ambiguous"
        r"|has no fixed position|which this livepatch does not patch",
        "refers to a symbol that the running kernel does not have, or not for this object",
    ),
)

OTHER = "other"


def kind_of(problem: Problem) -> str:
    """The name of a problem's kind, `OTHER` if it has none."""
    text = f"{problem.what}\n{problem.why}" if "layout" in problem.why else problem.what
    return next((kind.name for kind in KINDS if re.search(kind.pattern, text)), OTHER)


def meaning_of(name: str) -> str:
    """What a kind means, in a few words."""
    return next((kind.meaning for kind in KINDS if kind.name == name), "")
