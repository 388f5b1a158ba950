"""Refuse changes of ``__init`` code that are all of a patch, or that other objects depend on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from klpbuild.errors import KlpError, Problems
from klpbuild.extract.result import Extraction, LeftOut
from klpbuild.patch.effect import patches_of
from klpbuild.patch.fix import faults
from klpbuild.patch.pair import CompiledPatch, ObjectPair


def check_left_out(
    compiled: CompiledPatch,
    left_out: Sequence[tuple[ObjectPair, LeftOut]],
    running: Sequence[tuple[ObjectPair, Extraction]],
    idle: Collection[str],
) -> None:
    """Check that what was left out of one object matters to no other, and is not all of a patch.

    :param left_out: changed ``__init`` code and data, with the object that has it.
    :param running: what the livepatch takes.
    :param idle: names of the patches that it takes nothing of.
    :raises KlpError: with all that cannot be left out.
    """
    problems = Problems()
    for pair, left in left_out:
        problem = left.problem
        others = (e.state for other, e in running if other.target != pair.target)
        shared = sorted(left.state.intersection(frozenset().union(*others)))
        if shared:
            why = f"{problem.why}\nWhat the livepatch runs uses {', '.join(shared[:3])}, too."
            problem = replace(problem, why=why)
        elif not set(idle).intersection(patches_of(compiled, pair)):
            continue
        with faults(problems, patches_of(compiled, pair), pair.target):
            raise KlpError.together([problem])
    problems.check()
