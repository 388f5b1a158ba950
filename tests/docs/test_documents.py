"""Every command that a document shows is run, and prints what the document says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klpbuild.cli import make_parser
from klpbuild.kernel.tree import Kernel
from klpbuild.terminal.manual import man_page
from tests.docs.document import Command, Kind, difference, missing_lines, read_document
from tests.docs.reference import MANUAL, PAGE, page
from tests.docs.session import ROOT, Session

DOCUMENTS = (
    "README.md",
    "docs/tutorial.md",
    "docs/authors-guide.md",
    "docs/caching.md",
    "docs/packagers-guide.md",
    "docs/cumulative.md",
    "docs/packages.md",
    "docs/release.md",
    "docs/provenance.md",
)

#: The commands that no test can run: they need root, or a network beside that of packages.
NOT_RUN = {
    "docs/cumulative.md": {
        "./scons -Q -k livepatches=fixes kernel=6.1.0-47-cloud-amd64,6.1.0-50-cloud-amd64"
        " packages=deb dist",
    },
    # These run the tests themselves.
    "README.md": {"./scons test"},
    "docs/tutorial.md": {
        "sudo apt install git python3 python3-venv",
        "git clone URL klpbuild",
        "cd klpbuild",
        "sudo apt install gcc make flex bison bc xz-utils libelf-dev libssl-dev \\\n"
        "    qemu-system-x86 busybox-static",
    },
}


def present() -> list[str]:
    return [name for name in DOCUMENTS if (ROOT / name).is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("name", present())
def test_commands_that_need_no_kernel(name: str, tmp_path: Path) -> None:
    blocks = read_document(ROOT / name)
    if not any(block.kind is Kind.QUICK for block in blocks):
        pytest.skip("all its commands need a kernel")
    with Session(tmp_path / "klpbuild") as session:
        session.run(blocks, kernel=False)
    assert session.problems == [], "\n\n".join(session.problems)


@pytest.mark.kernel
@pytest.mark.boot
@pytest.mark.parametrize("name", present())
def test_all_commands(name: str, tmp_path: Path, debian_source_kernel: Kernel) -> None:
    blocks = read_document(ROOT / name)
    if not any(block.kind is Kind.KERNEL for block in blocks):
        pytest.skip("none of its commands needs a kernel")
    with Session(tmp_path / "klpbuild") as session:
        session.run(blocks, kernel=True)
    assert session.problems == [], "\n\n".join(session.problems)


@pytest.mark.parametrize("name", present())
def test_the_commands_that_are_not_run_are_known(name: str) -> None:
    found = {
        command.text
        for block in read_document(ROOT / name)
        if block.kind is Kind.NEVER
        for command in block.content
        if isinstance(command, Command)
    }
    assert found == NOT_RUN.get(name, set())


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ([], ["anything"], True),
        (["a", "b"], ["a", "b  "], True),
        (["a"], ["a", "b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["... b ..."], ["1 b 2"], True),
        (["a.c"], ["abc"], False),
        (["a", "...", "d"], ["a", "d"], True),
    ],
)
def test_how_output_is_compared(expected: list[str], printed: list[str], same: bool) -> None:
    assert (difference(expected, printed) == "") is same


def test_shortened_output() -> None:
    printed = ["[ 1.5] a  1", "b", "c 0xffffffff81000c40"]
    assert missing_lines(["[ 2.7] a 22", "... 3 more", "c 0x1"], printed) == ""
    assert missing_lines(["b", "[ 1.5] a 1"], printed) == ""
    assert missing_lines(["c 0", "b"], printed).startswith("not printed, or not in this place: b\n")
    assert missing_lines(["[ 1.5] d"], printed) != ""


def test_a_document_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "<!-- file: x/a.c -->\n```c\nint a;\n```\ntext\n<!-- test: kernel, fails -->\n"
        "```console\n$ one \\\n    two\nprinted\n$ three\n```\n<!-- test: not run, root -->\n"
        "```console\n$ sudo x\n```\n<!-- run: hidden -->\n```c\nnot a file\n```\n"
    )
    kinds = [(block.kind, block.content) for block in read_document(path)]
    assert [kind for kind, _ in kinds] == [Kind.QUICK, Kind.KERNEL, Kind.NEVER, Kind.QUICK]
    assert kinds[1][1] == (
        Command("one \\\n    two", ("printed",), 8),
        Command("three", (), 11, fails=True),
    )


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "write it: python -m tests.docs.reference"
    manual = man_page(make_parser())
    assert MANUAL.read_text() == manual, "write it: python -m tests.docs.reference"


@pytest.mark.parametrize("name", ["action.yml", "templates/livepatches.yml"])
def test_recipes_for_others_use_words_that_there_are(name: str) -> None:
    text = (ROOT / name).read_text()
    declared = set(re.findall(r"^  (\w+) +[^ ]", PAGE.read_text(), re.MULTILINE))
    used = set(re.findall(r" (\w+)=[\"$a-z]", text.partition("./scons -Q")[2]))
    assert {"livepatches", "livepatch", "kernel", "cache", "junit"} <= used
    assert used <= declared, used - declared


def test_the_recipes_run_what_the_guide_runs() -> None:
    guide = ROOT / "docs/packagers-guide.md"
    shown = {
        command.text
        for block in read_document(guide)
        for command in block.content
        if isinstance(command, Command) and block.kind is not Kind.NEVER
    }
    line = re.compile(r"^ *- (?:run: )?((?:\./scons|\.venv/bin/klpbuild) .*)$", re.MULTILINE)
    commands = [found.removeprefix(".venv/bin/") for found in line.findall(guide.read_text())]
    assert len(commands) == 8
    assert set(commands) <= shown
