"""How long the command takes to begin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.measure import Comparison, Quantity, Setting, benchmark


@benchmark("cli", small=True)
def cli(setting: Setting) -> Iterator[Comparison]:
    """What imports no command, and what lists all of them."""
    for word, key in (("--version", "cli_start_s"), ("-h", "")):
        yield Comparison(
            f"klpbuild {word}",
            lambda word=word: _run("-m", "klpbuild.cli", word),
            "python3",
            lambda: _run("-c", "pass"),
            seconds_max=0.1,
            key=key,
            quantity=Quantity.SECONDS,
        )


def _run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
