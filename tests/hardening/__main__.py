"""Fuzz every reader with as many inputs as asked for, and say what came of it.

::

    python -m tests.hardening 1000000 [SEED [READER]]

Inputs with a bad answer are left in ``build/fuzz/``.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.hardening.fuzz import Figures, bounded, run
from tests.hardening.readers import Reader, Readers

#: Inputs of one reader before the next one's turn.
_TURN = 200


def main(inputs: int, seed: str, only: str = "") -> int:
    """Run them in turns; 1 when there was a bad answer."""
    with tempfile.TemporaryDirectory(prefix="klpbuild-fuzz-") as name, bounded():
        os.environ["KLPBUILD_CACHE"] = f"{name}/cache"
        readers = [each for each in Readers(Path(name)).all() if only in each.name]
        shares = sum(each.share for each in readers)
        wanted = {each.name: -(-inputs * each.share // shares) for each in readers}
        found = {each.name: Figures() for each in readers}
        times = dict.fromkeys(found, 0.0)
        turn = 0
        while waiting := [r for r in readers if found[r.name].inputs < wanted[r.name]]:
            for reader in waiting:
                figures, begun = found[reader.name], time.process_time()
                left = wanted[reader.name] - figures.inputs
                run(reader, min(_TURN, left), f"{seed}/{turn}", figures)
                times[reader.name] += time.process_time() - begun
                _keep(figures)
            turn += 1
            if turn % 10 == 0:
                done = sum(each.inputs for each in found.values())
                print(f"{done:,} inputs", file=sys.stderr, flush=True)
    return _tell(readers, found, times)


def _keep(figures: Figures) -> None:
    for failure in figures.failures:
        name = f"{failure.reader} {failure.seed}".replace("/", "-").replace(" ", "-")
        path = Path("build/fuzz", name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(failure.data)
            print(f"{path}\n{failure.what}", flush=True)


def _tell(readers: list[Reader], found: dict[str, Figures], times: dict[str, float]) -> int:
    print("| reader | inputs | refused | slowest | failures |\n|---|---|---|---|---|")
    for name, figures in found.items():
        refused = figures.refused / max(figures.inputs, 1)
        print(
            f"| {name} | {figures.inputs:,} | {refused:.0%} | {figures.longest:.2f} s "
            f"| {len(figures.failures)} |"
        )
    inputs = sum(each.inputs for each in found.values())
    failures = sum(len(each.failures) for each in found.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{inputs:,} inputs of {len(readers)} readers in {sum(times.values()):.0f} s, "
          f"at most {memory} MB: {failures} failures")  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    words = sys.argv[1:] or ["10000"]
    sys.exit(main(int(words[0]), *(words[1:] or ["1"])))
