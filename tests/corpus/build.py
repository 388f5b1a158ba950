"""Build a livepatch from each patch of a directory, each in a process of its own."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from klpbuild.compiler.log import BuildLog
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.changes import compare
from klpbuild.extract.correlate import correlate
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.special import Tables
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.pair import compile_patch
from klpbuild.pipeline import steps
from klpbuild.pipeline.extracted import Extracted
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.symbols.database import SymbolDatabase
from tests.corpus.progress import Progress
from tests.corpus.reasons import kind_of
from tests.corpus.results import Outcome, Reason, Result, ResultsFile, as_line, from_line

#: Seconds after which a build is given up.
TIME_LIMIT = 1800

#: A module's name has 55 bytes, of which ``livepatch-`` takes 10 and a digest 9.
_NAME_MAX = 36
_LAYOUT = re.compile(r'--accept-layout "([^"]+)"')


def livepatch_name(patch: Path) -> str:
    """A livepatch's name, another one for each patch of a directory."""
    digest = hashlib.sha256(patch.name.encode()).hexdigest()[:8]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in patch.stem)
    return f"{kept[-_NAME_MAX:].strip('-_')}-{digest}"


def build_all(
    patches: Sequence[Path],
    kernel: str,
    results: ResultsFile,
    output: Path,
    jobs: int,
    keep: bool,
    progress: Progress,
) -> None:
    """Build what the results do not tell yet, and note each result at once.

    :param keep: keep the intermediate files of what is built.
    """
    pending: dict[Future[Result], Path] = {}
    left = list(reversed(patches))
    with ThreadPoolExecutor(jobs) as pool:
        while left or pending:
            while left and len(pending) < jobs:
                patch = left.pop()
                progress.started(patch.name)
                pending[pool.submit(_in_a_process, patch, kernel, output, keep)] = patch
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                del pending[future]
                result = future.result()
                results.add(result)
                progress.finished(result.patch, f"{result.outcome} {result.kind}".rstrip())


def _in_a_process(patch: Path, kernel: str, output: Path, keep: bool) -> Result:
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.corpus", "one", str(patch)]
    command += ["--keep"] if keep else []
    try:
        done = subprocess.run(
            [*command, "--kernel", kernel, "--output", str(output)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
        )
        if done.returncode == 0:
            return from_line(done.stdout.splitlines()[-1])
        said = f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    except subprocess.TimeoutExpired:
        said = f"not done after {TIME_LIMIT} s"
    return Result(patch.name, Outcome.FAILED, time.monotonic() - started, traceback=said)


def build_one(patch: Path, kernel_name: str, output: Path, keep: bool) -> Result:
    """Build one livepatch and tell what became of it; without `keep` only the module stays."""
    kernel = locate(kernel_name)
    name = livepatch_name(patch)
    directory = output / kernel.name
    started = time.monotonic()
    try:
        module, extracted = build_from_patches(kernel, [patch], name, directory)
        result = _built(patch, module.relative_to(output), extracted, time.monotonic() - started)
    except KlpError as error:
        seconds = time.monotonic() - started
        result = _refused(patch, error, seconds, _changed(kernel, patch, directory, error))
    except Exception:
        seconds = time.monotonic() - started
        return Result(patch.name, Outcome.FAILED, seconds, traceback=traceback.format_exc())
    if not keep:
        shutil.rmtree(directory / f"livepatch-{name}", ignore_errors=True)
    return result


def _built(patch: Path, module: Path, extracted: Extracted, seconds: float) -> Result:
    found = extracted.functions
    return Result(
        patch.name,
        Outcome.BUILT,
        round(seconds, 1),
        tuple(patched.name for patched in found),
        tuple(f"{p.name}/{function.old}" for p in found for function in p.functions),
        notes=tuple(line for line in extracted.report if line.startswith("note: ")),
        module=str(module),
    )


def _refused(
    patch: Path, error: KlpError, seconds: float, changed: tuple[tuple[str, str], ...]
) -> Result:
    reasons = tuple(
        Reason(kind_of(problem), problem.what, problem.where, problem.why, problem.hint)
        for problem in error.problems
    )
    return Result(
        patch.name,
        Outcome.REFUSED,
        round(seconds, 1),
        tuple(dict.fromkeys(owner for owner, _ in changed)),
        tuple(f"{owner}/{function}" for owner, function in changed),
        reasons,
    )


def _changed(
    kernel: Kernel, patch: Path, directory: Path, error: KlpError
) -> tuple[tuple[str, str], ...]:
    """Object and name of each changed function that has an ftrace entry.

    Compared here once more, because what klpbuild refuses it does not list.
    """
    if kind_of(error.problems[0]) in ("does-not-compile-alone", "not-in-this-configuration"):
        return ()
    workdir = directory / f"livepatch-{livepatch_name(patch)}" / "changed"
    accepted = [name for p in error.problems for name in _LAYOUT.findall(p.hint)]
    try:
        compiled = compile_patch(
            kernel, [patch], workdir, lambda line: None, accept_layouts=accepted
        )
    except KlpError:
        return ()
    sizes = steps.entry_sizes(kernel, BuildLog(directory / "build.log"))
    database = SymbolDatabase.read(directory / "symbols.klp")
    entries = steps.entry_points(kernel, database)
    found = []
    for pair in compiled.pairs:
        before = CodeObject(ElfFile.read(pair.original), sizes)
        after = CodeObject(ElfFile.read(pair.patched), sizes)
        changes = compare(correlate(before, after), Tables(before), Tables(after))
        for name in sorted({atom.name for atom in changes.functions}):
            places = [c.sympos for c in database.in_object(pair.owner, name)]
            if any(entries.has(pair.owner, name, place) for place in places):
                found.append((pair.owner, name))
    return tuple(found)


def print_one(patch: Path, kernel: str, output: Path, keep: bool) -> None:
    """What the process of one patch does."""
    print(as_line(build_one(patch, kernel, output, keep)))
