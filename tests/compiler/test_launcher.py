"""Programs before the compiler: they see each compilation, and change no result."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.compiler.driver import compile_commands, compile_source
from klpbuild.compiler.launcher import launched, launcher_environment, unlaunched, with_launcher
from klpbuild.compiler.log import BuildLog
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel

SOURCE = "#include <linux/kernel.h>\nint answer(void) { return 42; }\n"


@pytest.fixture
def ccache(tmp_path: Path) -> Path:
    """A launcher by that name, which notes what it is called with."""
    program = tmp_path / "bin" / "ccache"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$CCACHE_DIR: $*" >> {tmp_path}/calls\nexec "$@"\n')
    program.chmod(0o755)
    return program


def test_it_starts_the_compiler(
    fixtures_kernel: Kernel, ccache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCACHE_DIR", "its own")
    source = tmp_path / "fix.c"
    source.write_text(SOURCE)
    kernel = with_launcher(fixtures_kernel, str(ccache))
    log = BuildLog(tmp_path / "build.log")
    plain = compile_source(fixtures_kernel, source, tmp_path / "a/fix.o", module_name="fix")
    made = compile_source(kernel, source, tmp_path / "b/fix.o", module_name="fix", log=log)
    assert made.output.read_bytes() == plain.output.read_bytes()
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("its own: gcc")
    assert f"{ccache} gcc" in log.path.read_text()
    (entry,) = compile_commands(kernel, [source], "fix")
    assert entry["arguments"][0].startswith("gcc")


def test_a_compiler_that_has_one(ccache: Path) -> None:
    command = ["sccache", "gcc", "-c", "fix.c"]
    assert launched("ccache", command) == command
    assert unlaunched(command) == command[1:]
    assert launched("", command[1:]) == unlaunched(command[1:]) == command[1:]
    assert launched("ccache", command[1:]) == ["ccache", *command[1:]]


def test_what_it_sees_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCCACHE_BUCKET", "DISTCC_HOSTS", "GCC_EXEC_PREFIX", "CPATH"):
        monkeypatch.setenv(name, "x")
    seen = launcher_environment("distcc")
    assert {"SCCACHE_BUCKET", "DISTCC_HOSTS"} <= seen.keys()
    assert seen.keys().isdisjoint({"GCC_EXEC_PREFIX", "CPATH", "PATH"})
    assert launcher_environment("") == {}


def test_none(fixtures_kernel: Kernel) -> None:
    assert with_launcher(fixtures_kernel, "") is fixtures_kernel


def test_unknown_ones(fixtures_kernel: Kernel) -> None:
    with pytest.raises(KlpError) as caught:
        with_launcher(fixtures_kernel, "ccash")
    assert str(caught.value) == (
        "launcher 'ccash' is not known\n"
        "  Did you mean ccache?\n"
        "  Known: ccache, distcc, icecc, sccache."
    )
    with pytest.raises(KlpError) as caught:
        with_launcher(fixtures_kernel, "/nowhere/distcc")
    assert str(caught.value) == (
        "launcher '/nowhere/distcc' is not on this machine\n  Install the package distcc."
    )
