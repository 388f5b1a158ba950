"""The page of all kernels and livepatches of a directory of outputs."""

from __future__ import annotations

from pathlib import Path

from klpbuild.pipeline.documents import write_index
from klpbuild.request.matrix import Outcome, Result


def add(build: Path, kernel: str, name: str, outcome: Outcome, detail: str = "") -> None:
    work = build / kernel / f"livepatch-{name}"
    work.mkdir(parents=True)
    Result(kernel, name, outcome, detail).write(work / "result.json")
    (build / kernel / f"livepatch-{name}.ko").write_bytes(b"")
    (build / kernel / f"livepatch-{name}.html").write_text("")


def test_all_kernels_with_their_livepatches(tmp_path: Path) -> None:
    add(tmp_path, "6.12", "a", Outcome.LOADS, "nothing found")
    add(tmp_path, "6.1", "b&c", Outcome.REFUSED, "1 error")
    (tmp_path / "6.1/livepatch-old").mkdir()
    (tmp_path / "6.1/livepatch-old/result.json").write_text("damaged")
    write_index(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.index("Linux 6.<wbr>1<") < text.index("Linux 6.<wbr>12")
    assert '<a href="6.12/livepatch-a.html">livepatch-<wbr>a</a>' in text
    assert '<a href="6.1/livepatch-b%26c.html">livepatch-<wbr>b&amp;c</a>' in text
    assert '<span class="verdict bad">refused: 1 error</span>' in text
    assert "livepatch-old" not in text.replace("<wbr>", "")
    assert "<script" not in text


def test_a_directory_without_livepatches_gets_no_page(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert list(tmp_path.iterdir()) == []
