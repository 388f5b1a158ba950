"""No message of a compiler tells what is in a file that is nobody's source."""

from __future__ import annotations

from pathlib import Path

from klpbuild.compiler.quotes import without_foreign


def test_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.c").write_text("x\n")
    said = (
        "In file included from own/a.c:3:\nsecret:1:5: error: unknown type name 'root'\n"
        "    1 | root:hidden\n      | ^~~~\n"
    )
    assert without_foreign(said, tmp_path, [tmp_path / "own"]) == (
        "own/a.c:3: error: secret is neither the kernel's nor the livepatch's:"
        " what the compiler says of it is not shown\n"
    )
    assert without_foreign(said, tmp_path, [tmp_path]) == said
