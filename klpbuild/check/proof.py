"""Check that unchanged code of a patched function leads where the shipped function does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klpbuild.check import catalogue
from klpbuild.check.subject import Subject
from klpbuild.errors import KlpError

if TYPE_CHECKING:
    from klpbuild.check.explain import Explainer


def check_proof(subject: Subject) -> None:
    """Compare each patched function with the one that it replaces."""
    if not subject.applies(catalogue.ELSEWHERE) or not subject.patched:
        return
    try:
        _compare(subject, subject.explainer)
    except KlpError as error:
        subject.not_checked(catalogue.ELSEWHERE, str(error), subject.name)


def _compare(subject: Subject, explainer: Explainer) -> None:
    for patched in subject.patched or ():
        for function in patched.functions or ():
            where = f"{patched.object}:{function.old}"
            found = explainer.mismatches(patched.object, function)
            if found is None:
                why = "the shipped function is not at hand"
                subject.not_checked(catalogue.ELSEWHERE, why, where)
            for mismatch in found or ():
                offset = mismatch.pair.new.offset if mismatch.pair.new else 0
                place = f"{function.new}+{offset:#x}"
                subject.find(catalogue.ELSEWHERE, mismatch.what, place)
