"""Mutants of good livepatches: what check predicts and what the kernel does, side by side.

Makes N mutants of livepatches, one change each, asks `klpbuild check`, has the kernel judge
them in QEMU, and prints the matrix of both.  What was judged is kept in the directory: the
same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from tests.campaign.campaign import Campaign
from tests.campaign.matrix import Outcome, line, pages
from tests.samples import Built, build

#: The good livepatches; the first one is mutated most.
SAMPLES = ("exercise", "button")


def build_samples(kernel: Kernel, directory: Path) -> Built:
    """The good livepatches: built once in a directory."""
    if (directory / "SConstruct").exists():
        return Built(kernel, directory / "build" / kernel.name)
    return build(kernel, directory, SAMPLES)


def main() -> int:
    """Run a campaign; exit status 1 when check passed what the kernel did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kernel", required=True, help="release of a fetched kernel")
    parser.add_argument("--mutants", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="mutants of each")
    parser.add_argument("--directory", type=Path, default=Path("build/campaign"))
    parser.add_argument(
        "--module", type=Path, action="append", default=[], help="another good livepatch"
    )
    parser.add_argument("--guests", type=int, default=1, metavar="N", help="at a time")
    words = parser.parse_args()
    directory = words.directory / words.kernel
    directory.mkdir(parents=True, exist_ok=True)
    built = build_samples(locate(words.kernel), directory / "samples")
    modules = {name: built.module(name) for name in SAMPLES}
    modules |= {path.stem: path for path in words.module}
    campaign = Campaign(
        built.kernel, built.directory / "symbols.klp", modules, directory, words.guests
    )
    outcomes = [o for seed in words.seed for o in campaign.run(words.mutants, seed, tell)]
    print("\n".join(pages(outcomes)))
    return 1 if any(o.passed_wrongly and not o.meaning for o in outcomes) else 0


def tell(outcome: Outcome) -> None:
    """Show an outcome in a line."""
    print(f"{outcome.predicted.value}: {line(outcome)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
