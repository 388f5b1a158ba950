"""Write the result of a livepatch whose build ends with an error behind the extraction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.extracted import Extracted

if TYPE_CHECKING:
    from klpbuild.pipeline.table import Said, Step


def noting_failure(build: Build, step: Step) -> Step:
    """Let a step that fails leave ``result.json``, which else tells of the build before."""
    return replace(step, run=partial(_run, build, step.run))


def _run(build: Build, run: Callable[[Said], None], said: Said) -> None:
    try:
        run(said)
    except KlpError as error:
        from klpbuild.pipeline.fixes import all_fixes
        from klpbuild.request.matrix import Result

        chosen, result = build.chosen, build.paths.result
        made = Result.of_error(build.kernel.name, chosen.livepatch.name, error)
        with suppress(KlpError):  # what is not there yet tells of no fix
            fixes = Extracted.read(build.paths.record).fixes if chosen.patches else ()
            made = replace(made, fixes=all_fixes(build.for_kernel(), fixes, built=False))
        with suppress(KlpError):  # the error is what matters
            made.write(result)
        raise
