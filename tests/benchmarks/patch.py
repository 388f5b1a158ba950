"""From a source patch to a checked module, against the compiler for the same file."""

from __future__ import annotations

import difflib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from klpbuild.distro.parts import Part
from klpbuild.kernel.cache import cached_kernel
from klpbuild.kernel.kbuild import build_environment
from klpbuild.kernel.locate import locate
from klpbuild.kernel.prepare import PreparedTree, prepare
from klpbuild.kernel.source import source_tree
from klpbuild.patch.commands import CompileCommand, compile_commands
from klpbuild.patch.recompile import SECTION_FLAGS
from tests.benchmarks.measure import (
    Comparison,
    Figure,
    NotMeasured,
    Quantity,
    Setting,
    UnavailableError,
    benchmark,
)


@dataclass(frozen=True)
class _Case:
    """A change of one line.

    :ivar before: a text of the file that stands once behind `behind`.
    """

    name: str
    path: str
    behind: str
    before: str
    after: str


_CASES = (
    _Case(
        "small",
        "security/keys/keyctl_pkey.c",
        "long keyctl_pkey_query(",
        "\tret = params.key->type->asym_query(&params, &res);\n",
        "\tmemset(&res, 0, sizeof(res));\n\tret = params.key->type->asym_query(&params, &res);\n",
    ),
    _Case(
        "large",
        "fs/btrfs/extent-tree.c",
        "int btrfs_pin_extent(",
        "\tBUG_ON(!cache); /* Logic error */\n",
        "\tif (!cache)\n\t\treturn -EINVAL;\n",
    ),
)
_RATIOS = {"small": 3, "large": 2}
_SECONDS = {"small": 1.0, "large": 3.0}
_CHECKS = {"small": ("vmlinux", 0.3), "large": ("module", 0.5)}

_PEAK = """
import resource, sys
from klpbuild.cli import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@benchmark("patch")
def patch(setting: Setting) -> Iterator[Comparison | Figure | NotMeasured]:
    """The commands as users run them; the kernel is prepared before."""
    cached = cached_kernel(setting.kernel)
    if cached is None or not (cached.package(Part.SOURCE) and cached.package(Part.DEBUG)):
        raise UnavailableError(f"{setting.kernel} is not fetched with source and debug symbols")
    kernel = locate(cached.release)
    tree = prepare(kernel, lambda line: None)
    for case in _CASES:
        target = f"{case.path[:-2]}.o"
        text = (source_tree(kernel) / case.path).read_text()
        place = text.find(case.before, text.find(case.behind))
        if case.behind not in text or place < 0:
            yield NotMeasured(case.path, f"{setting.kernel} has another {case.path}")
            continue
        new = text[:place] + case.after + text[place + len(case.before) :]
        file = setting.directory / f"{case.name}.patch"
        file.write_text(_diff(case.path, text, new))
        command = compile_commands(tree, tree.kept / "commands", [target], lambda line: None)[
            target
        ]
        yield from _measured(case, tree, command, file, setting)


def _diff(path: str, old: str, new: str) -> str:
    lines = (old.splitlines(keepends=True), new.splitlines(keepends=True))
    return "".join(difflib.unified_diff(*lines, f"a/{path}", f"b/{path}"))


def _measured(
    case: _Case, tree: PreparedTree, command: CompileCommand, file: Path, setting: Setting
) -> Iterator[Comparison | Figure]:
    build, release = setting.directory / "build", setting.kernel
    words = ("build", str(file), "--kernel", release, "--build", str(build))
    line = command.compile(
        setting.directory / "plain.o", *SECTION_FLAGS, source=tree.source, shadow=None
    )

    def gcc(times: int = 1) -> None:
        for _ in range(times):
            subprocess.run(
                line, cwd=tree.build, env=build_environment(), check=True, capture_output=True
            )

    def first_time() -> None:
        forget(tree, command.target)
        klpbuild(words)

    klpbuild(words)
    module = build / release / f"livepatch-{case.name}.ko"
    yield Comparison(
        f"patch of {case.path} to a checked module",
        lambda: klpbuild(words),
        "compiling the file",
        gcc,
        ratio_max=_RATIOS[case.name],
        seconds_max=_SECONDS[case.name],
        key=f"patch_{case.name}_over_gcc",
    )
    yield Comparison(
        "the same, nothing of the file compiled yet",
        first_time,
        "compiling it twice",
        lambda: gcc(2),
        ratio_max=2.5,
        key=f"patch_{case.name}_first_over_two_gcc",
    )
    yield peak_memory(f"patch_{case.name}_peak_mb", words)
    what, seconds = _CHECKS[case.name]
    symbols = build / release / "symbols.klp"
    yield Comparison(
        f"klpbuild check of it, for {what}",
        lambda: klpbuild(("check", str(module), "--kernel", release, "--symbols", str(symbols))),
        "readelf -aW",
        lambda: subprocess.run(["readelf", "-aW", module], check=True, capture_output=True),
        seconds_max=seconds,
        key=f"check_{what}_s",
        quantity=Quantity.SECONDS,
    )


def peak_memory(key: str, words: Sequence[str]) -> Figure:
    """Run the command and measure its memory at most, without programs that it runs."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *words], check=True, capture_output=True, text=True
    )
    return Figure(key, "memory at most", int(done.stdout.split()[-1]), "MB", 200)


def forget(tree: PreparedTree, target: str) -> None:
    """Remove what is kept of compiling an object and its patched versions."""
    for name in ("objects/{}.*", "patched/{}-*"):
        for path in tree.kept.glob(name.format(target[:-2])):
            path.unlink()


def klpbuild(words: Sequence[str]) -> None:
    """Run the command."""
    subprocess.run([sys.executable, "-m", "klpbuild.cli", *words], check=True, capture_output=True)
