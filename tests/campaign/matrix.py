"""Predicted and observed side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from klpbuild.check.rule import Effect, Report, Severity
from tests.campaign.exercise import Observed


class Predicted(Enum):
    """What `klpbuild check` says of a module."""

    LOADS = "would load"
    REFUSED = "would be refused"
    LATE = "would be refused late"
    MUST_NOT = "would load, and must not"
    UNFORESEEN = "nobody can say"


def predicted(report: Report) -> Predicted:
    """The one word for a report."""
    errors = report.at_least(Severity.ERROR)
    if report.refused:
        return Predicted.REFUSED
    if report.would_load is None:
        return Predicted.UNFORESEEN
    if any(finding.effect is Effect.LATE for finding in errors):
        return Predicted.LATE
    return Predicted.MUST_NOT if errors else Predicted.LOADS


@dataclass(frozen=True)
class Outcome:
    """A mutant, what was said of it, and what a kernel did.

    :ivar rules: the rules that it breaks, as errors.
    :ivar warnings: those that it breaks, as warnings.
    :ivar said: the kernel's words.
    :ivar meaning: whether somebody could have meant the change.
    """

    number: int
    base: str
    kind: str
    what: str
    predicted: Predicted
    rules: tuple[str, ...]
    warnings: tuple[str, ...]
    observed: Observed
    said: str
    meaning: bool = False

    @property
    def passed_wrongly(self) -> bool:
        """Whether check let it pass and the kernel did not."""
        told = _TOLD.get(self.observed) in self.warnings
        return self.predicted is Predicted.LOADS and self.observed not in _FINE and not told

    @property
    def refused_wrongly(self) -> bool:
        """Whether check said that it is refused and the kernel took it and ran well."""
        said = self.predicted in (Predicted.REFUSED, Predicted.LATE)
        return said and self.observed in _FINE

    @property
    def unseen(self) -> bool:
        """Whether it is said to do harm that the guest did not come to."""
        harmful = self.predicted in (Predicted.MUST_NOT, Predicted.UNFORESEEN)
        return harmful and self.observed in _FINE


#: The warnings that a module cannot be unloaded, and that something of it has no effect.
_TOLD = {Observed.STAYS: "KLP117", Observed.WRONG: "KLP426"}
_FINE = (Observed.WELL, Observed.NOT_TRIED)


def matrix(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A Markdown table of how often each was predicted and each observed."""
    count = Counter((o.predicted, o.observed) for o in outcomes)
    columns = [o for o in Observed if any(count[p, o] for p in Predicted)]
    yield "| predicted | " + " | ".join(o.value for o in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in Predicted:
        cells = [str(count[row, column]) for column in columns]
        yield f"| {row.value} | " + " | ".join(cells) + " |"


def disagreements(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """The mutants on which check and kernel do not agree."""
    return (o for o in outcomes if o.passed_wrongly or o.refused_wrongly)


def line(o: Outcome) -> str:
    """An outcome in a line."""
    rules = " ".join(o.rules) or "nothing found"
    return f"{o.number} {o.base} {o.kind} [{o.what}] {rules}; {o.observed.value}: {o.said}"


def pages(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Both matrices, of damage and of changes that may be meant, and where they disagree."""
    for meant, title in ((False, "Damage"), (True, "Changes that somebody could have meant")):
        chosen = [o for o in outcomes if o.meaning is meant]
        yield f"{title}: {len(chosen)} mutants\n"
        yield from matrix(chosen)
        yield ""
        yield from (line(o) for o in disagreements(chosen))
        yield "\nHarm that was not seen:\n"
        yield from (f"{o.predicted.value}: {line(o)}" for o in chosen if o.unseen)
        yield ""
