"""A cache that checkouts at different paths share."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klpbuild.kernel.cache import cache_directory
from klpbuild.kernel.tree import Kernel
from klpbuild.scons.caching import sealed, unsealed
from tests.scons.checkout import ROOT, Checkout
from tests.scons.livepatches import add_patch

pytestmark = pytest.mark.slow

TREE = "build/fixtures/kernel"


def hit_rate(text: str) -> tuple[int, int]:
    """What the last line says: steps from the cache, and all of them."""
    match = re.search(r"^(\d+) of (\d+) steps from the cache\.$", text.splitlines()[-1])
    assert match, text
    return int(match[1]), int(match[2])


class Sharing:
    """Two checkouts that build for one kernel with one cache.

    :ivar called: a log of what the second one runs.
    """

    def __init__(self, first: Checkout, directory: Path) -> None:
        self.first = first
        self.cache = directory / "shared"
        self.called = directory / "called"
        tools = directory / "tools"
        tools.mkdir()
        for name in ("gcc", "gcc-12", "make"):
            if (real := shutil.which(name)) is not None:
                text = f'#!/bin/sh\necho "{name} $*" >> {self.called}\nexec {real} "$@"\n'
                (tools / name).write_text(text)
                (tools / name).chmod(0o755)
        self.second = Checkout(directory / "elsewhere" / "klpbuild", {
            "PATH": f"{tools}:{first.environment['PATH']}",
            "KLPBUILD_CACHE": first.environment["KLPBUILD_CACHE"],
        })  # fmt: skip
        self.tree = first.directory / TREE
        self.words = (f"kernel={self.tree}", "livepatches=shared", f"cache={self.cache}")
        for checkout in (first, self.second):
            livepatches = checkout.directory / "shared"
            shutil.copytree(ROOT / "kernel-fixtures/livepatches/meminfo", livepatches / "meminfo")
            add_patch(livepatches / "fix")

    def kernel(self) -> str:
        """The kernel's name, by which its directory of results is called."""
        build = self.first.directory / "build"
        (name,) = (path.name for path in build.glob("6.1.0-fixtures-*"))
        return name

    def commands(self) -> list[str]:
        """What the second checkout has run, but for questions about versions."""
        lines = self.called.read_text().splitlines() if self.called.exists() else []
        return [line for line in lines if not line.endswith((" --version", " -dumpmachine"))]


@pytest.fixture(scope="module")
def sharing(shared: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    """The first has built, with objects that no cache knows."""
    sharing = Sharing(shared, tmp_path_factory.mktemp("sharing"))
    # Other tests may have made symbols.klp of this kernel, which is then not made again.
    text = shared.scons("-j2", *sharing.words, "--cache-force")
    assert "\n2 in all: 2 would load.\n" in text
    hits, steps = hit_rate(text)
    assert (hits, steps > 12) == (0, True)
    yield sharing
    shutil.rmtree(shared.directory / "shared")


def outputs(checkout: Checkout, kernel: str) -> dict[str, bytes]:
    build = checkout.directory / "build" / kernel
    logs = {"build.log", "commands.jsonl"}
    return {
        str(path.relative_to(build)): path.read_bytes()
        for path in build.rglob("*")
        if path.is_file() and path.name not in logs
    }


def test_a_second_checkout_builds_nothing(sharing: Sharing) -> None:
    text = sharing.second.scons(*sharing.words)
    assert "\n2 in all: 2 would load.\n" in text
    hits, steps = hit_rate(text)
    assert hits == steps > 12
    assert "would load: nothing found" in text
    assert sharing.commands() == []
    kernel = sharing.kernel()
    first, second = (outputs(each, kernel) for each in (sharing.first, sharing.second))
    kinds = {path.rpartition(".")[2] for path in second}
    assert kinds >= {"ko", "o", "d", "c", "klp", "index", "tar", "json", "graphml", "dot", "html"}
    assert {name: first[name] for name in second} == second
    text = sharing.second.scons(*sharing.words)
    assert text.startswith("scons: `livepatch' is up to date.\n")
    assert "from the cache" not in text


def test_what_comes_from_the_cache_can_be_built_upon(sharing: Sharing) -> None:
    """Only the tables change: the extracted objects are those of the cache."""
    sharing.second.scons(*sharing.words)
    description = sharing.second.directory / "shared/fix/livepatch.toml"
    description.write_text('description = "another one"\n')
    text = sharing.second.scons(*sharing.words, "livepatch=fix")
    assert "EXTRACT" not in text
    assert "  LD [M]  " in text
    assert hit_rate(text)[0] == 0
    assert any("tables.c" in command for command in sharing.commands())


def test_the_options_of_scons(sharing: Sharing) -> None:
    def symbols(*words: str) -> str:
        for path in (sharing.second.directory / "build").glob("*/symbols.klp*"):
            path.unlink()
        return sharing.second.scons("symbols", *sharing.words, *words)

    assert "Retrieved `build/" in symbols()
    text = symbols("--cache-show")
    assert text.startswith("  SYMBOLS build/")
    assert hit_rate(text) == (1, 1)
    (path,) = (sharing.second.directory / "build").glob("*/symbols.klp")
    cached = path.read_bytes()
    assert hit_rate(symbols("--cache-disable")) == (0, 1)
    assert path.read_bytes() == cached


def test_a_header_that_no_scanner_finds(sharing: Sharing) -> None:
    """The cache must not give an object that was compiled with another header."""
    objects = []
    for checkout, value in ((sharing.first, 1), (sharing.second, 2)):
        directory = checkout.directory / "shared/macro"
        shutil.copytree(directory.parent / "meminfo", directory)
        source = directory / "meminfo.c"
        source.write_text('#define HEADER "value.h"\n#include HEADER\n' + source.read_text())
        (directory / "value.h").write_text(f"int value = {value};\n")
        kernel = sharing.kernel()
        target = f"build/{kernel}/livepatch-macro/meminfo.o"
        checkout.scons(*sharing.words, target)
        objects.append((checkout.directory / target).read_bytes())
        rule = (checkout.directory / target).with_suffix(".d").read_text()
        assert "shared/macro/value.h" in rule
    assert objects[0] != objects[1]


def entry_of(sharing: Sharing, name: str) -> Path:
    """The cache's entry of an output."""
    data = (sharing.first.directory / "build" / sharing.kernel() / name).read_bytes()
    (found,) = (p for p in sharing.cache.glob("*/*") if unsealed(p.name, p.read_bytes()) == data)
    return found


def test_what_is_not_as_it_was_stored_is_not_taken(sharing: Sharing) -> None:
    """Changed, emptied, cut off, another one's, not ours at all, or no file."""
    work = "livepatch-meminfo"
    names = (f"{work}.ko", "symbols.klp", f"{work}/inputs.json", f"{work}/meminfo.o",
             f"{work}/relocations.json", f"{work}/tables.o", f"{work}/inputs.o")  # fmt: skip
    entries = [entry_of(sharing, name) for name in names]
    before = {path: path.read_bytes() for path in entries}
    module, symbols, inputs, first, relocations, second, last = entries
    changed = bytearray(before[module])
    changed[before[module].index(b"\0livepatch=Y\0") + 20] ^= 1
    module.write_bytes(changed)
    symbols.write_bytes(b"")
    inputs.write_bytes(before[inputs][:-1])
    first.write_bytes(before[second])
    relocations.write_bytes(before[relocations].partition(b"\n")[2])
    last.unlink()
    last.mkdir()
    damaged = {module, symbols, inputs, first, relocations, last}
    build = sharing.second.directory / "build" / sharing.kernel()
    shutil.rmtree(build, ignore_errors=True)
    words = (*sharing.words, "livepatch=meminfo")
    text = sharing.second.scons(*words)
    for path in damaged:
        what = "is not as it was stored, and is not taken from the cache"
        assert f"klpbuild: note: {path}: {what}\n" in text
    assert text.count("is not taken from the cache") == len(damaged)
    built = outputs(sharing.second, sharing.kernel())
    kept = outputs(sharing.first, sharing.kernel())
    same = {name for name in built if not name.endswith((".html", "timings.jsonl"))}
    assert {name: built[name] for name in same} == {name: kept[name] for name in same}
    assert {path: path.read_bytes() for path in entries} == before
    shutil.rmtree(build)
    hits, steps = hit_rate(sharing.second.scons(*words))
    assert hits == steps


def test_entries_are_bound_to_their_names() -> None:
    entry = sealed("name", b"content\nof two lines")
    assert unsealed("name", entry) == b"content\nof two lines"
    assert unsealed("other", entry) is None
    for place in range(len(entry)):
        changed = bytearray(entry)
        changed[place] ^= 1
        assert unsealed("name", bytes(changed)) is None
        assert unsealed("name", entry[:place]) is None
    assert unsealed("name", entry + b"\0") is None


def test_a_directory_that_is_no_cache(shared: Checkout) -> None:
    directory = shared.directory / "no-cache"
    directory.mkdir()
    for text, why in {
        "{": f"Failed to read cache configuration for {directory}",
        "[" * 100_000: "It is nested too deep.",
        '{"prefix_lem": 2}': "Its file config names no prefix_len: {'prefix_lem': 2}",
        '{"prefix_len": -9}': "Its file config names no prefix_len: {'prefix_len': -9}",
        "[2]": "Its file config names no prefix_len: [2]",
    }.items():
        (directory / "config").write_text(text)
        assert shared.scons("cache=no-cache", status=2) == (
            "scons: error: cache=no-cache: is no cache of SCons\n"
            f"  {why}\n"
            "  Remove the file config in it, or name another directory.\n"
        )


@pytest.mark.kernel
def test_a_real_kernel(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    """A patch and a hand-written livepatch; nothing depends on the path or on the jobs."""
    environment = {"KLPBUILD_CACHE": str(cache_directory())}
    words = (f"kernel={debian_source_kernel.name}", "livepatches=own", f"cache={tmp_path}/cache")
    first, second = (
        Checkout(tmp_path / name / "klpbuild", environment) for name in ("one", "some/other")
    )
    for checkout in (first, second):
        own = checkout.directory / "own"
        shutil.copytree(ROOT / "kernel-fixtures/livepatches/meminfo", own / "meminfo")
        (own / "fix").mkdir()
        shutil.copy(ROOT / "tests/docs/fix.patch", own / "fix")
    assert hit_rate(first.scons("-j2", *words))[0] == 0
    hits, steps = hit_rate(second.scons("-j1", *words))
    assert hits == steps > 15
    kernel = debian_source_kernel.name
    cached = outputs(second, kernel)
    shutil.rmtree(second.directory / "build")
    second.scons("-j1", *words, "--cache-disable")
    # The report page tells how long each step took.
    same = {name for name in cached if not name.endswith(".html")}
    built = outputs(second, kernel)
    assert {name: built[name] for name in same} == {name: cached[name] for name in same}


def test_a_cache_that_cannot_be_used(shared: Checkout) -> None:
    text = shared.scons("cache=SConstruct/x", status=2)
    assert text == "scons: error: cache=SConstruct/x: cannot be made: Not a directory\n"
