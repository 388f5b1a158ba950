"""Define rules, findings and reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from klpbuild.elf.constants import EM
from klpbuild.errors import KlpError

if TYPE_CHECKING:
    from klpbuild.check.subject import Subject

Version = tuple[int, int]

#: Limit on names of rules that were not checked.
_NAMED = 5


class Severity(IntEnum):
    """Severity of a finding; `--fail-on` names one."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        """Its name in reports."""
        return self.name.lower()


class Effect(Enum):
    """Effect of a broken rule: what the kernel does with the module."""

    REFUSED = "refuses the module"
    LATE = "refuses the patched module when that loads"
    ACCEPTED = "loads the module and says nothing"
    WARNED = "loads the module and warns"
    UNFORESEEN = "may load the module, refuse it or crash"


class Needs(IntEnum):
    """Inputs that are needed to check a rule; each includes those before it."""

    MODULE = 0
    HEADERS = 1
    SYMBOLS = 2
    #: The kernel's own code, to compare with.
    CODE = 3
    #: Only the running system knows.
    SYSTEM = 9

    @property
    def missing(self) -> str:
        """Why a rule that needs it was not checked."""
        return {
            Needs.MODULE: "the module cannot be read",
            Needs.HEADERS: "no kernel is named",
            Needs.SYMBOLS: "the kernel's symbols are not at hand",
            Needs.CODE: "the kernel's code is not at hand",
            Needs.SYSTEM: "only the running system can tell",
        }[self]


@dataclass(frozen=True)
class Wording:
    """Words that the kernel writes to its log, from one version on.

    :ivar text: the message with ``{field}`` for what differs; the part that is always
        the same, if it ends in values that nobody can foresee.
    :ivar machines: ``e_machine`` of the architectures that say it so; empty for all.
    """

    text: str
    since: Version = (4, 7)
    machines: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Rule:
    """A rule that a livepatch module must obey.

    :ivar identifier: ``KLP`` and a number; the kernel checks lower ones first.
    :ivar title: what is wrong with a module that breaks it.
    :ivar why: what the kernel does, and where.
    :ivar hint: what to do.
    :ivar says: the kernel's own words, oldest first; empty when it says nothing.
    :ivar since: the first kernel that has the rule.
    :ivar until: the first kernel that has it no more.
    :ivar after: the identifier after which the kernel comes to it, if that is not its own.
    :ivar machines: ``e_machine`` of the architectures whose module loader it knows; empty for
        all, where it does not depend on that.
    :ivar only: ``e_machine`` of the architectures whose kernels have it; empty for all.
    """

    identifier: str
    title: str
    why: str
    hint: str
    says: tuple[Wording, ...] = ()
    severity: Severity = Severity.ERROR
    effect: Effect = Effect.REFUSED
    needs: Needs = Needs.MODULE
    since: Version = (4, 7)
    until: Version | None = None
    after: str = ""
    machines: frozenset[int] = frozenset()
    only: frozenset[int] = frozenset()

    def knows(self, machine: int) -> bool:
        """Tell whether it can be checked for an architecture."""
        return not self.machines or machine in self.machines

    def holds_for(self, version: Version | None, machine: int = EM.X86_64) -> bool:
        """Tell whether a kernel has the rule; one of an unknown version (None) has them all."""
        if self.only and machine not in self.only:
            return False
        if version is None:
            return True
        return self.since <= version and (self.until is None or version < self.until)

    def message(
        self, version: Version | None, values: dict[str, object], machine: int = EM.X86_64
    ) -> str:
        """Format the kernel's words, empty when it says nothing.

        :param version: None for the newest words.
        :param values: what stands for the ``{fields}``.
        :param machine: ``e_machine`` of the module.
        """
        said = [w for w in self.says if not w.machines or machine in w.machines]
        known = [w.text for w in said if version is None or w.since <= version]
        return known[-1].format(**values) if known else ""


@dataclass(frozen=True)
class Finding:
    """A rule that a module breaks.

    :ivar what: one sentence without a full stop.
    :ivar where: ``section+0xoffset:symbol``, as far as it is known; may be empty.
    :ivar says: what the kernel will write to its log; empty when it says nothing.
    :ivar effect: what the kernel will do; the rule's, or a milder one.
    :ivar hint: what to do.
    """

    rule: Rule
    what: str
    where: str
    says: str
    effect: Effect
    hint: str


@dataclass(frozen=True)
class Unchecked:
    """A rule that could not be checked, and why; `about` names whom it concerns, if not all."""

    rule: Rule
    why: str
    about: str = ""


@dataclass(frozen=True)
class Report:
    """Report of `klpbuild.check.module.check_module`.

    :ivar file: the module's path as it was given.
    :ivar kernel: the kernel's release; empty without a kernel.
    :ivar findings: in the order of their rules.
    :ivar unchecked: the rules that could not be checked.
    :ivar checked: how many rules were checked.
    :ivar subject: the module as it was read; None when its headers are broken.
    """

    file: str
    kernel: str
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]
    checked: int
    subject: Subject | None = field(default=None, repr=False, compare=False)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """List the findings that are as bad or worse."""
        return tuple(f for f in self.findings if f.rule.severity >= severity)

    @property
    def unchecked_rules(self) -> frozenset[str]:
        """The rules that were not checked at all."""
        return frozenset(u.rule.identifier for u in self.unchecked if not u.about)

    @property
    def refused(self) -> Finding | None:
        """Why the kernel would refuse the module: what it would meet first."""
        refused = [f for f in self.findings if f.effect is Effect.REFUSED]
        return min(refused, key=lambda f: f.rule.after or f.rule.identifier, default=None)

    @property
    def counts(self) -> dict[Severity, int]:
        """How many findings there are of each severity."""
        return {s: sum(f.rule.severity is s for f in self.findings) for s in Severity}

    @property
    def found(self) -> str:
        """The counts, in words."""
        counts = reversed(self.counts.items())
        words = [f"{n} {s.word}{'s' * (n > 1)}" for s, n in counts if n]
        return ", ".join(words) or "nothing found"

    @property
    def would_load(self) -> bool | None:
        """Whether the kernel would load the module itself; None when that is not known."""
        if self.refused:
            return False
        return None if any(f.effect is Effect.UNFORESEEN for f in self.findings) else True

    @property
    def not_checked(self) -> tuple[str, ...]:
        """A line for each reason why rules were not checked at all, with some of the rules."""
        reasons: dict[str, list[str]] = {}
        for unchecked in self.unchecked:
            if not unchecked.about:
                reasons.setdefault(unchecked.why, []).append(unchecked.rule.identifier)
        return tuple(
            f"{len(rules)} rule{'s' * (len(rules) > 1)} not checked: {why} "
            f"({', '.join(rules[:_NAMED])}{', ...' * (len(rules) > _NAMED)}; "
            "`klpbuild check -v` lists them)"
            for why, rules in reasons.items()
        )

    @property
    def summary(self) -> str:
        """One line: the verdict, and how many rules it rests on."""
        whom = f"Linux {self.kernel}" if self.kernel else "a kernel"
        if self.refused:
            verdict = f"{whom} would refuse it ({self.refused.rule.identifier})"
        elif self.would_load is None:
            verdict = f"nobody can say what {whom} would do with it"
        elif self.at_least(Severity.ERROR):
            verdict = f"{whom} would load it, and must not"
        else:
            verdict = f"{whom} would load it" if self.kernel else "well-formed"
        rules = self.checked + len(self.unchecked_rules)
        return f"{verdict}: {self.found}, {self.checked} of {rules} rules checked"


class RefusedError(KlpError):
    """Refusal by the second opinion: the kernel would refuse a module, or worse.

    :ivar report: all that it finds.
    """

    report: Report
