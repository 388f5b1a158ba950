"""Ask check and a kernel what they think of many mutants."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Severity
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import End, GroupResult
from klpbuild.vm.scenario import Group
from tests.campaign.exercise import Observed, Verdict, group_of, judge
from tests.campaign.matrix import Outcome, Predicted, predicted
from tests.campaign.mutate import Mutant, mutants

#: Mutants in one boot, as far as it survives them: what an interruption loses.
BATCH = 20
#: Seconds without a word of the guest after which it hangs: a mutant takes a few, a boot on a
#: busy computer many, and then it may need another try.
QUIET = 180.0
_BOOTS = 3
#: What was observed, by the digest of the mutant: check may be asked again, later.
_RECORD = "observed.jsonl"


@dataclass(frozen=True)
class Campaign:
    """Good modules of a kernel, and where files are kept.

    :ivar modules: name to file; the first one is mutated most.
    :ivar directory: keeps mutants that wait, consoles, and what was observed of the others.
    :ivar guests: how many run at a time: each waits for grace periods most of the time.
    """

    kernel: Kernel
    symbols: Path
    modules: dict[str, Path]
    directory: Path
    guests: int = 1

    def run(
        self, count: int, seed: int, told: Callable[[Outcome], None] = lambda outcome: None
    ) -> list[Outcome]:
        """Make mutants, ask check, have the kernel judge those that it has not judged yet.

        :param told: called with each outcome.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        good = {name: path.read_bytes() for name, path in self.modules.items()}
        side, known = KernelSide(self.kernel, self.symbols), self._known()
        outcomes, waiting = [], []
        for mutant in mutants(good, count, seed):
            outcome = self._ask(mutant, side)
            verdict = known.get(_digest(mutant))
            if verdict is None:
                waiting.append((mutant, outcome))
            else:
                outcomes.append(_with(outcome, verdict))
        # Those that pass are judged first: what they leave behind is not to be feared.
        waiting.sort(key=lambda pair: [*Predicted].index(pair[1].predicted))
        shown = {base: self._shown(base) for base in dict.fromkeys(o.base for _, o in waiting)}
        made = {mutant.number: mutant for mutant, _ in waiting}
        pool = ThreadPoolExecutor(self.guests)
        batches = [
            pool.submit(self._judge, waiting[first : first + BATCH], shown)
            for first in range(0, len(waiting), BATCH)
        ]
        try:
            for batch in as_completed(batches):
                for outcome in batch.result():
                    self._keep(made[outcome.number], outcome)
                    told(outcome)
                    outcomes.append(outcome)
        finally:
            pool.shutdown(cancel_futures=True)
        return sorted(outcomes, key=lambda o: o.number)

    def _known(self) -> dict[str, Verdict]:
        path = self.directory / _RECORD
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        return {row["mutant"]: Verdict(Observed(row["observed"]), row["said"]) for row in rows}

    def _keep(self, mutant: Mutant, outcome: Outcome) -> None:
        row = {"mutant": _digest(mutant), "observed": outcome.observed.value, "said": outcome.said}
        with (self.directory / _RECORD).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _ask(self, mutant: Mutant, side: KernelSide) -> Outcome:
        report = check_bytes(mutant.data, f"livepatch-{mutant.base}.ko", side)
        errors, warnings = (
            tuple(sorted({f.rule.identifier for f in report.findings if f.rule.severity is each}))
            for each in (Severity.ERROR, Severity.WARNING)
        )
        return Outcome(
            mutant.number, mutant.base, mutant.kind, mutant.what,
            predicted(report), errors, warnings, Observed.NOT_TRIED, "", mutant.meaning,
        )  # fmt: skip

    def _shown(self, base: str) -> str:
        """What a good module shows."""
        (result,) = self._boot([group_of(0, self.modules[base], base)], self.directory)
        shown = result.steps[0].output
        verdict = judge(result, shown)
        assert verdict.observed is Observed.WELL, (base, verdict)
        return shown

    def _judge(
        self, pairs: Sequence[tuple[Mutant, Outcome]], shown: dict[str, str]
    ) -> list[Outcome]:
        """What the kernel does with each; a guest that dies is begun anew behind it."""
        directory = self.directory / f"batch-{pairs[0][0].number}"
        directory.mkdir(exist_ok=True)
        files = {mutant.number: directory / f"{mutant.number}.ko" for mutant, _ in pairs}
        for mutant, _ in pairs:
            files[mutant.number].write_bytes(mutant.data)
        waiting, found = [outcome for _, outcome in pairs], []
        while waiting:
            groups = [group_of(o.number, files[o.number], o.base) for o in waiting]
            results = self._boot(groups, directory)
            later = []
            for place, (outcome, result) in enumerate(zip(waiting, results, strict=False)):
                verdict = judge(result, shown[outcome.base])
                if verdict.observed is Observed.NOT_TRIED:
                    later.append(outcome)
                    continue
                tried = groups[: place + 1]
                found.append(self._settled(outcome, verdict, tried, shown[outcome.base], directory))
            waiting = later + waiting[len(results) :]
        shutil.rmtree(directory)
        return found

    def _settled(
        self,
        outcome: Outcome,
        verdict: Verdict,
        groups: Sequence[Group],
        good: str,
        directory: Path,
    ) -> Outcome:
        """The outcome; where it is not as predicted, after a boot with this module alone."""
        found = _with(outcome, verdict)
        if len(groups) > 1 and found.passed_wrongly:
            (result,) = self._boot(groups[-1:], directory)
            again = _with(outcome, judge(result, good))
            if found.observed is Observed.DIED and again.observed is not Observed.DIED:
                culprit = self._culprit(groups, directory)
                return replace(again, said=f"died behind {culprit}: {found.said}")
            found = again
        return found

    def _culprit(self, groups: Sequence[Group], directory: Path) -> str:
        """The module that makes the guest die when a later one is tried: found by halving."""
        before, last = list(groups[:-1]), groups[-1]
        while len(before) > 1:
            half = before[: len(before) // 2]
            died = self._boot([*half, last], directory)[-1].end in (End.OOPS, End.PANIC)
            before = half if died else before[len(before) // 2 :]
        return before[0].name

    def _boot(self, groups: Sequence[Group], directory: Path) -> tuple[GroupResult, ...]:
        guest = Guest(self.kernel, directory, QUIET, processors=1)
        for _ in range(_BOOTS - 1):
            with suppress(KlpError):
                return guest.boot(groups).groups
        return guest.boot(groups).groups


def _digest(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.data).hexdigest()[:32]


def _with(outcome: Outcome, verdict: Verdict) -> Outcome:
    return replace(outcome, observed=verdict.observed, said=verdict.said)
