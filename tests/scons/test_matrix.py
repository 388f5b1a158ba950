"""Several kernels in one run: the table, and going on past failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.scons.checkout import Checkout
from tests.scons.livepatches import add_patch

pytestmark = pytest.mark.slow

TREE = "build/fixtures/kernel"


@pytest.fixture(scope="module")
def own(shared: Checkout) -> Iterator[Path]:
    """A directory of livepatches: one good, one for another kernel, two that are broken."""
    samples = shared.directory / "kernel-fixtures/livepatches"
    directory = shared.directory / "own"
    shutil.copytree(samples / "meminfo", directory / "good")
    shutil.copytree(samples / "version", directory / "version")
    broken = shutil.copytree(samples / "meminfo", directory / "broken") / "meminfo.c"
    broken.write_text(broken.read_text().replace("si_meminfo(&i);", "si_meminfo(&i)"))
    add_patch(directory / "stale")
    patch = directory / "stale/fix.patch"
    patch.write_text(patch.read_text().replace("MemTotal", "MemAll"))
    (directory / "unread").mkdir()
    (directory / "unread" / "livepatch.toml").write_text("objekt = 1\n")
    yield directory
    shutil.rmtree(directory)


def the_table(text: str) -> list[str]:
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("kernel  "))
    end = next(n for n, line in enumerate(lines) if " in all: " in line)
    return lines[start : end + 1]


@pytest.fixture(scope="module")
def matrix(shared: Checkout, own: Path) -> str:
    """What a run for three kernels says, one of which is not there."""
    written = ("junit=build/results.xml", "sarif=build/refused.sarif")
    words = ("-k", "-j2", f"kernel=fixtures,{TREE},6.1.0-99", "livepatches=own", *written)
    return shared.scons(*words, status=2)


def test_the_run_goes_on_past_failures(shared: Checkout, matrix: str) -> None:
    (tree,) = (path.name for path in (shared.directory / "build").glob("6.1.0-fixtures-*"))
    unread = "failed: own/unread/livepatch.toml: the livepatch has no C source (2 more)"
    stale = "failed: own/stale/fix.patch:3: hunk 1 of fs/proc/meminfo.c does not apply"
    unknown = "failed: kernel '6.1.0-99' is not known"
    rows = [
        ("kernel", "livepatch", "result"),
        ("fixtures", "broken", "failed: own/broken/meminfo.c: does not compile"),
        ("fixtures", "good", "would load: nothing found"),
        ("fixtures", "stale", stale),
        ("fixtures", "unread", unread),
        ("fixtures", "version", "would load: nothing found"),
        (tree, "broken", "failed: own/broken/meminfo.c: does not compile"),
        (tree, "good", "would load: nothing found"),
        (tree, "stale", stale),
        (tree, "unread", unread),
        (tree, "version", "not for this kernel"),
        *(("6.1.0-99", name, unknown) for name in ("broken", "good", "stale", "unread", "version")),
    ]
    width = len(tree)
    assert the_table(matrix) == [
        *(f"{kernel:<{width}}  {livepatch:<9}  {result}" for kernel, livepatch, result in rows),
        "15 in all: 3 would load, 11 failed, 1 not for this kernel.",
    ]
    suites = ElementTree.parse(shared.directory / "build/results.xml").getroot()
    counts = {name: suites.get(name) for name in ("tests", "failures", "skipped")}
    assert counts == {"tests": "15", "failures": "11", "skipped": "1"}
    assert [suite.get("name") for suite in suites] == ["6.1.0-99", tree, "fixtures"]
    (failure,) = suites.iterfind("testsuite[@name='fixtures']/testcase[@name='stale']/failure")
    assert failure.get("message") == stale
    (run,) = json.loads((shared.directory / "build/refused.sarif").read_text())["runs"]
    (place,) = next(r for r in run["results"] if "hunk 1" in r["message"]["text"])["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "own/stale/fix.patch"},
        "region": {"startLine": 3},
    }
    assert "scons: *** [kernel=6.1.0-99] error: kernel '6.1.0-99' is not known\n" in matrix
    for name in ("fixtures", tree):
        build = shared.directory / "build" / name
        assert (build / "livepatch-good.ko").is_file()
        assert not (build / "livepatch-broken.ko").exists()


def test_an_unchanged_build_shows_the_table(shared: Checkout, matrix: str) -> None:
    words = (f"kernel=fixtures,{TREE}", "livepatches=own", "livepatch=good,version")
    text = shared.scons(*words)
    assert text.startswith("scons: `livepatch' is up to date.\nkernel  ")
    assert text.endswith("4 in all: 3 would load, 1 not for this kernel.\n")
    result = shared.directory / "build/fixtures/livepatch-good/result.json"
    assert json.loads(result.read_text()) == {
        "kernel": "fixtures",
        "livepatch": "good",
        "outcome": "would load",
        "detail": "nothing found",
        "findings": [["note", 0], ["warning", 0], ["error", 0]],
        "booted": None,
        "fixes": [],
    }


def test_a_livepatch_that_fails_leaves_no_older_module(shared: Checkout, matrix: str) -> None:
    """Though it was there before, and the table does not tell of it any more."""
    source = shared.directory / "own/good/meminfo.c"
    before = source.read_text()
    source.write_text(before.replace("si_meminfo(&i);", "no_such_function(&i);"))
    try:
        words = ("kernel=fixtures", "livepatches=own", "livepatch=good,version")
        text = shared.scons(*words, "-k", status=2)
        assert the_table(text)[1:] == [
            "fixtures  good       failed: own/good/meminfo.c: does not compile",
            "fixtures  version    would load: nothing found",
            "2 in all: 1 would load, 1 failed.",
        ]
        text = shared.scons(*words, status=2)
        assert "failed: own/good/meminfo.c: does not compile" in text
    finally:
        source.write_text(before)


def test_without_k_the_first_error_ends_it(shared: Checkout, own: Path) -> None:
    words = (
        "kernel=fixtures,6.1.0-99",
        "livepatches=own",
        "junit=build/a.xml",
        "sarif=build/a.sarif",
    )
    text = shared.scons(*words, status=2)
    assert "scons: error: own/unread/livepatch.toml: the livepatch has no C source\n" in text
    assert "scons: error: kernel '6.1.0-99' is not known\n" in text
    assert "build/" not in text
    assert "result" not in text
    failure = ElementTree.parse(shared.directory / "build/a.xml").getroot().find(".//failure")
    assert failure is not None
    (run,) = json.loads((shared.directory / "build/a.sarif").read_text())["runs"]
    unknown = "kernel '6.1.0-99' is not known\n"
    assert unknown in str(failure.text)
    assert any(unknown in result["message"]["text"] for result in run["results"])


def test_results_that_cannot_be_written_are_told_beside_the_error(shared: Checkout) -> None:
    text = shared.scons("kernel=6.1.0-99", "junit=SConstruct/a.xml", status=2)
    assert "scons: error: kernel '6.1.0-99' is not known\n" in text
    assert "scons: error: SConstruct/a.xml: cannot be written: Not a directory" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("kernel=,",), "scons: error: no kernel is named\n  kernel=RELEASE\n"),
        (
            (f"kernel={TREE},./{TREE}",),
            f"scons: error: kernel './{TREE}' is named twice\n"
            f"  '{TREE}' is 6.1.0-fixtures-",
        ),
        (
            (f"kernel=fixtures,{TREE}", "system_map=own/System.map"),
            "scons: error: system_map= is for one kernel, and 2 are named\n"
            "  Build for one kernel at a time, or let klpbuild find the symbols.\n",
        ),
        (
            (f"kernel={TREE}", "livepatch=version"),
            "scons: error: livepatch version is not for kernel 6.1.0-fixtures-",
        ),
        (("livepatch=,",), "scons: error: own: no livepatch is named\n  livepatch=NAME\n"),
    ],
)  # fmt: skip
def test_kernels_that_cannot_be_understood(
    shared: Checkout, own: Path, words: tuple[str, ...], text: str
) -> None:
    assert text in shared.scons("livepatches=own", *words, status=2)


def test_no_livepatch_for_the_kernel(shared: Checkout, own: Path) -> None:
    only = shared.directory / "only"
    shutil.copytree(own / "version", only / "version")
    text = shared.scons(f"kernel={TREE}", "livepatches=only", status=2)
    assert text.startswith("scons: error: only: no livepatch is for 6.1.0-fixtures-")
    shutil.rmtree(only)


def test_symbols_of_all_kernels(shared: Checkout) -> None:
    shared.scons("-c", f"kernel=fixtures,{TREE}", "symbols")
    text = shared.scons(f"kernel=fixtures,{TREE}", "symbols", "-j2")
    assert text.count("  SYMBOLS build/") == 2
    assert " in all: " not in text
