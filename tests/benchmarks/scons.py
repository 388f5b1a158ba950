"""Builds with little to do, compared with SCons itself doing nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from klpbuild.symbols.database import SymbolDatabase
from tests.benchmarks.inputs import (
    checkout,
    miniature,
    module_with,
    own_cache,
    write_modules,
)
from tests.benchmarks.measure import Comparison, Quantity, Setting, UnavailableError, benchmark

SIZES = (1_000, 10_000, 30_000)
SMALL_SIZES = (10,)

#: A module that no livepatch here has to do with.
CHANGED = "made_00000000.ko"


class _Builds:
    """Runs of SCons in a checkout of its own."""

    def __init__(self, directory: Path) -> None:
        self.checkout = checkout(directory / "checkout")
        self._empty = directory / "empty"
        self._empty.mkdir()
        (self._empty / "SConstruct").write_text("DefaultEnvironment(tools=[])\n")

    def run(self, *words: str, cache: Path | None = None) -> str:
        """What a build says."""
        added = {} if cache is None else {"KLPBUILD_CACHE": str(cache)}
        return _scons(self.checkout, words, added)

    def empty(self) -> None:
        """SCons' own start-up."""
        _scons(self._empty, (), {})


def _scons(directory: Path, words: tuple[str, ...], added: Mapping[str, str]) -> str:
    # As users run it: what Python has compiled stays compiled.
    caller = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", *words],
        cwd=directory,
        env={**caller, **added},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"scons {' '.join(words)} fails:\n{done.stdout}{done.stderr}")
    return done.stdout


@benchmark("scons", small=True)
def scons(setting: Setting) -> Iterator[Comparison]:
    """A livepatch for a whole kernel: nothing changed, one of its objects changed."""
    directory = setting.directory
    builds = _Builds(directory)
    if setting.small:
        kernel, cache = str(_with_made(miniature(directory), 10)), directory / "cache"
        modules, name = Path(kernel) / "made", kernel
    else:
        cache, modules = own_cache(directory / "cache", setting.kernel)
        kernel, name = setting.kernel, setting.kernel
    words = (f"kernel={kernel}", "livepatch=meminfo", "symbols", "livepatch")
    changing, numbers = modules / CHANGED, itertools.count()
    changing.write_bytes(module_with("before"))

    def unchanged() -> None:
        if "SYMBOLS" in builds.run(*words, cache=cache):
            raise AssertionError("symbols.klp is written although nothing changed")

    def changed() -> None:
        symbol = f"symbol_{next(numbers)}"
        changing.write_bytes(module_with(symbol))
        said = builds.run(*words, cache=cache)
        if "SYMBOLS" not in said or "  CC " in said or "  KLP " in said:
            raise AssertionError(f"not just symbols.klp is made again:\n{said}")
        (written,) = builds.checkout.glob("build/*/symbols.klp")
        if not SymbolDatabase.read(written).candidates(symbol):
            raise AssertionError("the new symbol is not in symbols.klp")

    builds.run(*words, cache=cache)
    yield Comparison(
        f"build for {Path(name).name}, nothing changed",
        unchanged,
        "empty SConstruct",
        builds.empty,
        seconds_max=1.0,
        key="unchanged_build_s_over_empty",
        quantity=Quantity.EXCESS,
    )
    yield Comparison(
        f"build for {Path(name).name}, one object changed",
        changed,
        "empty SConstruct",
        builds.empty,
        excess_max=0.25,
        key="one_object_s_over_empty",
        quantity=Quantity.EXCESS,
    )
    yield from _large_trees(setting, builds)


def _large_trees(setting: Setting, builds: _Builds) -> Iterator[Comparison]:
    """The miniature kernel with made modules: a tree is one node, however large."""
    directory = setting.directory
    plain = directory / "kernel" if setting.small else miniature(directory)
    for count in SMALL_SIZES if setting.small else SIZES:
        tree = directory / f"tree-{count}"
        shutil.copytree(plain, tree, symlinks=True, ignore=shutil.ignore_patterns("made"))
        _with_made(tree, count)
        words = (f"kernel={tree}", "symbols")
        build = _bound(builds, words, directory / "cache")
        build()
        title = f"symbols.klp for {count:,} more objects, nothing changed"
        yield Comparison(title, build, "empty SConstruct", builds.empty)


def _bound(builds: _Builds, words: tuple[str, ...], cache: Path) -> Callable[[], object]:
    return lambda: builds.run(*words, cache=cache)


def _with_made(tree: Path, count: int) -> Path:
    """Add modules to a build tree."""
    order = tree / "modules.order"
    listed = [line for line in order.read_text().splitlines() if not line.startswith("made/")]
    made = [f"made/{path.name}" for path in write_modules(tree / "made", count)]
    order.write_text("\n".join([*listed, *made]) + "\n")
    return tree
