"""Progress of many compilations, where nobody watches a terminal."""

from __future__ import annotations

import pytest

from klpbuild.from_patch import show_progress


def test_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    for done in range(1, 41):
        show_progress(done, 40)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0] == "          4 of 40 objects compiled before and after"
    assert lines[-1] == "          40 of 40 objects compiled before and after"


def test_few_objects_need_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    show_progress(1, 3)
    assert capsys.readouterr().out == ""
