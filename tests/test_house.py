"""The rules of the house: who imports whom, how long a module is, what files may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "klpbuild"
LINES_MAX = 450

SOURCES = sorted(PACKAGE.rglob("*.py"))


def rooms_in_order() -> dict[str, tuple[int, int]]:
    """Room (``elf``, ``cli``) to floor and place on it, from docs/architecture.md."""
    found: dict[str, tuple[int, int]] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        row = re.match(r"\| (\d) \| ([^|]+)\|", line)
        if row:
            names = re.findall(r"`klpbuild/(\w+)(?:\.py|/)`", row[2])
            found |= {name: (int(row[1]), place) for place, name in enumerate(names)}
    return found


ROOMS = rooms_in_order()


def room(path: Path) -> str:
    """The room that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> tuple[tuple[str, str], ...]:
    """Place and dotted name of each import in a file, at its top or inside a function."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from ((place, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: relative import"
            module = node.module or ""
            if module == "klpbuild":
                yield from ((place, f"klpbuild.{alias.name}") for alias in node.names)
            else:
                yield place, module


def rooms_imported() -> Iterator[tuple[str, str, str]]:
    """Place, room, and the other room that it imports."""
    for path in SOURCES:
        for place, name in imports(path):
            first, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if first == "klpbuild" and other not in ("", "__version__", room(path)):
                yield place, room(path), other


def test_the_plan_names_every_room() -> None:
    assert {room(path) for path in SOURCES} - {"__init__"} <= ROOMS.keys()
    assert [ROOMS[name][0] for name in ("errors", "symbols", "kernel", "cli")] == [1, 2, 3, 6]


def test_rooms_import_only_downward() -> None:
    found = list(rooms_imported())
    assert len(found) > 50
    wrong = [f"{p}: {own} imports {other}" for p, own, other in found if ROOMS[other] >= ROOMS[own]]
    assert wrong == []


def test_the_second_opinion_is_independent() -> None:
    used = {other for _, own, other in rooms_imported() if own == "check"}
    assert used.isdisjoint({"resolve", "convert", "patch", "extract", "proof"})


def test_only_its_tool_imports_scons() -> None:
    without = [path for path in SOURCES if room(path) != "scons"]
    assert [p for path in without for p, name in imports(path) if name.startswith("SCons")] == []
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in without
        if path.name != "__main__.py"
    ]
    program = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "SCons":
            raise AssertionError("klpbuild imports SCons")
sys.meta_path.insert(0, Refuse())
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


def test_modules_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert {path: length for path, length in lengths.items() if length > LINES_MAX} == {}


def test_public_names_have_docstrings() -> None:
    missing = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if path.name != "__init__.py" and not ast.get_docstring(tree):
            missing.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert missing == []


#: No verb begins so; ruff's D401 looks for verbs in another mood, and takes these for unknown ones.
NO_VERB = re.compile(
    r"(?![A-Z][a-z]+)"
    r"|(?:All|An|And|Any|As|Both|Each|Every|For|From|How|If|In|Is|Its|No|None|Not|Nothing|Of|One"
    r"|Only|Other|Some|That|The|There|These|This|Those|To|What|When|Where|Whether|Which|While|Who"
    r"|Whose|Why|With)\b"
)


def test_functions_docstrings_begin_with_a_verb() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if text is None or any("property" in ast.unparse(d) for d in node.decorator_list):
                continue
            if NO_VERB.match(text):
                first = text.partition("\n")[0]
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}: {first}")
    assert wrong == []


#: Directories of the machine that the project is written on, and hosts of package indexes.
FOREIGN = re.compile(
    r"(?<![\w.$}])/(?:work|root|home/[a-z]\w*)/\w"
    r"|pypi\.org|pythonhosted\.org|deb\.debian\.org|archive\.ubuntu\.com|(?<!no-emit-)index-url"
)


def tracked_files() -> list[Path]:
    """The files that git knows."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def test_files_name_no_machine() -> None:
    wrong = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert wrong == []


def check_clean(*words: str) -> None:
    """Run a checker and show what it finds."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    check_clean("ruff", "check", "--quiet", ".")


def test_ruff_would_format_nothing() -> None:
    check_clean("ruff", "format", "--check", "--quiet", ".")


@pytest.mark.slow
def test_mypy_finds_nothing() -> None:
    check_clean("mypy")
