"""Each rule is found in a module that breaks it, and in none that does not."""

from __future__ import annotations

import pytest

from klpbuild.check.catalogue import RULES
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect, Needs
from tests.check.breaks import BREAKS
from tests.check.editor import Broken

#: Rules that no file of this kernel can break.
NOT_HERE = {"KLP111": "since 6.4", "KLP201": "a configuration", "KLP204": "a configuration",
            "KLP210": "an ordinary finding", "KLP604": "a module with an .init double"}  # fmt: skip


def identifiers(data: bytes, side: KernelSide | None) -> set[str]:
    report = check_bytes(data, "livepatch.ko", side)
    return {f.rule.identifier for f in report.findings}


@pytest.mark.parametrize("name", ["meminfo", "button"])
def test_a_good_livepatch_is_clean(
    miniature: KernelSide, good: dict[str, bytes], name: str
) -> None:
    report = check_bytes(good[name], "livepatch.ko", miniature)
    assert report.findings == ()
    assert {u.rule.needs for u in report.unchecked} == {Needs.SYSTEM}
    assert report.summary.startswith("Linux 6.1.0-miniature would load it: nothing found, ")
    assert identifiers(good[name], None) == set()


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: str(broken.rule))
def test_a_broken_one_is_found(
    miniature: KernelSide, good: dict[str, bytes], broken: Broken
) -> None:
    found = identifiers(broken.change(good[broken.base]), miniature)
    assert broken.rule in found
    assert found - {broken.rule} <= broken.also


def test_every_rule_has_a_test() -> None:
    tested = {broken.rule for broken in BREAKS} | set(NOT_HERE)
    of_the_file = {r.identifier for r in RULES if r.needs is not Needs.SYSTEM}
    assert tested == of_the_file


def test_rules_are_distinct_and_say_what_to_do() -> None:
    assert len({rule.identifier for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.title and rule.why and rule.hint, rule.identifier
        assert rule.says or rule.effect in (Effect.ACCEPTED, Effect.REFUSED), rule.identifier
        assert [w.since for w in rule.says] == sorted(w.since for w in rule.says)
