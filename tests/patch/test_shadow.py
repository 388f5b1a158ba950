"""The shadow tree shows the patched files and leaves the source tree alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.patch.patched import PatchedFile, SourceLine
from klpbuild.patch.shadow import make_shadow, with_line_directives


def lines_of(text: str, new: str) -> tuple[SourceLine, ...]:
    """The lines of `text`, where those that begin with ``+`` are new."""
    number = 0
    found = []
    for line in text.splitlines(keepends=True):
        if line.startswith(new):
            found.append(SourceLine(line.removeprefix(new).encode(), None, "fix.patch:1"))
        else:
            number += 1
            found.append(SourceLine(line.encode(), number))
    return tuple(found)


def patched_file(path: str, text: str) -> PatchedFile:
    lines = lines_of(text, "+")
    original = b"".join(line.text for line in lines if line.old)
    return PatchedFile(path, original, lines, "fix.patch:1")


def numbers(text: bytes, tmp_path: Path) -> list[int]:
    """What ``__LINE__`` is wherever the text has it, says the compiler."""
    file = tmp_path / "lines.c"
    file.write_bytes(text)
    done = subprocess.run(["gcc", "-E", "-P", file], capture_output=True, text=True, check=True)
    return [int(number) for number in re.findall(r"line = (\d+)", done.stdout)]


@pytest.mark.parametrize(
    "text",
    [
        "+int new;\nint a; line = __LINE__;\n",
        "int a;\n+int new;\n+int newer;\nline = __LINE__;\nint b;\nline = __LINE__;\n",
        "/* a\n+ * new\n * comment */\nint a;\nline = __LINE__;\n",
        "#define A(x) \\\n+\tnew + \\\n\tx + 1\nint a;\nline = __LINE__;\n",
        "f(a,\n+  new,\n  b);\nline = __LINE__;\n",
        'char *a = "/*";\n+int new;\nline = __LINE__;\n',
        "#if A\nf(\n#else\ng(\n#endif\n+new,\n1);\n}\nline = __LINE__;\n",
        "// it's (\n+int new;\nline = __LINE__;\n",
        "char c = '(';\n+int new;\nline = __LINE__;\n",
    ],
)
def test_old_lines_keep_their_numbers(text: str, tmp_path: Path) -> None:
    lines = lines_of(text, "+")
    old = b"".join(line.text for line in lines if line.old)
    new = with_line_directives(lines)
    assert numbers(new, tmp_path) == numbers(old, tmp_path) != []
    without_directives = re.sub(rb"#line \d+\n", b"", new)
    assert without_directives == b"".join(line.text for line in lines)


def test_removed_lines_count_too(tmp_path: Path) -> None:
    lines = (SourceLine(b"int a;\n", 1), SourceLine(b"line = __LINE__;\n", 5))
    assert with_line_directives(lines) == b"int a;\n#line 5\nline = __LINE__;\n"


def test_a_directive_is_not_put_into_a_macro_or_a_comment() -> None:
    text = with_line_directives(lines_of("#define A \\\n+\t1 + \\\n\t2\nint a;\n", "+"))
    assert text == b"#define A \\\n\t1 + \\\n\t2\n#line 3\nint a;\n"
    text = with_line_directives(lines_of("/*\n+ * x\n */\nint a;\n", "+"))
    assert text == b"/*\n * x\n */\n#line 3\nint a;\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "source"
    for path, text in {
        "include/linux/a.h": "#define A 1\n",
        "fs/ext/sub/c.c": '#include "../x.h"\nint c = X;\n',
        "fs/ext/x.h": "#define X 1\n",
        "fs/ext/y.c": "int y;\n",
        "fs/other/z.c": "int z;\n",
        "Makefile": "\n",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return tree


def test_only_the_way_to_a_patched_file_is_real(source: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    make_shadow(shadow, source, [patched_file("fs/ext/y.c", "+int new;\nint y;\n")])
    assert (shadow / "fs/ext/y.c").read_text() == "int new;\n#line 1\nint y;\n"
    assert not (shadow / "fs/ext").is_symlink()
    assert (shadow / "fs/other").is_symlink()
    assert (shadow / "include").is_symlink()
    assert (shadow / "fs/ext/x.h").resolve() == (source / "fs/ext/x.h").resolve()
    assert (source / "fs/ext/y.c").read_text() == "int y;\n"


def test_a_relative_include_finds_the_patched_header(source: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    make_shadow(shadow, source, [patched_file("fs/ext/x.h", "+#define X 2\n")])
    command = ["gcc", "-E", "-P", str(shadow / "fs/ext/sub/c.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "int c = 2;\n"


def test_a_new_directory_and_an_old_shadow(source: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    make_shadow(shadow, source, [patched_file("fs/ext/y.c", "+int new;\nint y;\n")])
    new = PatchedFile("fs/new/n.h", None, lines_of("+int n;\n", "+"), "fix.patch:1")
    make_shadow(shadow, source, [new])
    assert (shadow / "fs/new/n.h").read_text() == "int n;\n"
    assert (shadow / "fs/ext").is_symlink()


def test_a_shadow_that_was_there_becomes_what_a_new_one_is(source: Path, tmp_path: Path) -> None:
    y = patched_file("fs/ext/y.c", "+int new;\nint y;\n")
    x = patched_file("fs/ext/x.h", "+#define X 2\n")
    added = PatchedFile("fs/new/n.h", None, lines_of("+int n;\n", "+"), "fix.patch:1")
    shadow, new = tmp_path / "shadow", tmp_path / "new"

    def contents(tree: Path) -> dict[str, str]:
        return {
            str(path.relative_to(tree)): str(path.readlink()) if path.is_symlink()
            else path.read_text() if path.is_file() else "a directory"
            for path in tree.rglob("*")
        }  # fmt: skip

    def damage() -> None:
        (shadow / "Makefile").unlink()
        (shadow / "Makefile").mkdir()
        (shadow / "include").unlink()
        (shadow / "include").symlink_to(tmp_path)
        (shadow / "stray.h").write_text("")

    for files in ([y], [x, added], [y, x], [y], [added]):
        make_shadow(shadow, source, files)
        shutil.rmtree(new, ignore_errors=True)
        make_shadow(new, source, files)
        assert contents(shadow) == contents(new)
        damage()


def test_without_directives_the_file_is_as_patched(source: Path, tmp_path: Path) -> None:
    file = patched_file("fs/ext/y.c", "+int new;\nint y;\n")
    make_shadow(tmp_path / "shadow", source, [file], directives=False)
    assert (tmp_path / "shadow/fs/ext/y.c").read_text() == "int new;\nint y;\n"
