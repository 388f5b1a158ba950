"""Steps for a part with a ``patched_funcs.csv``: what holds for the kernel, and its functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from klpbuild.compiler.driver import preprocess
from klpbuild.files.whole import write_file
from klpbuild.module.listed import calls_source, conditions_source, held_lines
from klpbuild.module.livepatch import Livepatch
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.steps import compile_source
from klpbuild.pipeline.table import Said


def write_conditions(
    build: Build, livepatch: Livepatch, flags: Sequence[str], output: Path
) -> None:
    """Let the preprocessor say which functions of a list are replaced in a kernel.

    :raises KlpError: with the preprocessor's lines.
    """
    source = output.with_suffix(".c")
    write_file(source, conditions_source(livepatch).encode())
    name = build.chosen.livepatch.module_name
    text = preprocess(build.kernel, source, name, flags, build.chosen.directory)
    write_file(output, "".join(f"{line}\n" for line in held_lines(text)).encode())


def compile_calls(
    build: Build, livepatch: Livepatch, flags: Sequence[str], source: Path, said: Said
) -> None:
    """Compile what calls a fix's two functions.

    :raises KlpError: with the compiler's lines.
    """
    write_file(source, calls_source(livepatch).encode())
    compile_source(build, source, source.with_suffix(".o"), said, flags=flags)
