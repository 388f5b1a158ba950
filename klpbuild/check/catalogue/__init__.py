"""List every rule that `klpbuild check` knows, in the order in which the kernel checks them.

1xx the file, 2xx what it says of itself, 3xx its symbols, 4xx livepatch
relocations, 5xx what it patches, 6xx what works on one day and not on another.
The words are those of kernel/module/, kernel/livepatch/ and arch/x86/kernel/module.c.
"""

from __future__ import annotations

from klpbuild.check.catalogue import file, information, patches, relocations
from klpbuild.check.catalogue.file import *  # noqa: F403
from klpbuild.check.catalogue.information import *  # noqa: F403
from klpbuild.check.catalogue.patches import *  # noqa: F403
from klpbuild.check.catalogue.relocations import *  # noqa: F403
from klpbuild.check.rule import Rule

_FOUND = [
    value
    for module in (file, information, relocations, patches)
    for value in vars(module).values()
    if isinstance(value, Rule)
]
RULES: tuple[Rule, ...] = tuple(sorted(_FOUND, key=lambda rule: rule.identifier))
