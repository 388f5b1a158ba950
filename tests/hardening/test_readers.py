"""Readers with damaged inputs, the same in every run; `python -m tests.hardening` gives more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hardening.fuzz import run
from tests.hardening.readers import Reader, Readers

#: Of all readers together: some two minutes.
INPUTS = 25_000


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    return list(Readers(tmp_path_factory.mktemp("readers")).all())


def test_whole_inputs_are_read(readers: list[Reader]) -> None:
    for reader in readers:
        for data in reader.whole:
            reader.use(data)


def test_damaged_inputs_are_refused_or_read() -> None:
    """In a process of its own, whose memory is bounded."""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.hardening", str(INPUTS), "ci"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-1000:]


def test_a_hang_and_a_traceback_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(data: bytes) -> None:
        if data == b"b":
            while True:
                pass
        raise RuntimeError("unheard of")

    monkeypatch.setattr("tests.hardening.fuzz.SECONDS_MAX", 0.05)
    texts = iter([b"a", b"b"])
    figures = run(Reader("x", [b""], use, lambda random, whole: next(texts)), 2, "1")
    assert (figures.inputs, figures.refused, len(figures.failures)) == (2, 2, 2)
    assert "RuntimeError: unheard of" in figures.failures[0].what
    assert "HangError: takes more than" in figures.failures[1].what
