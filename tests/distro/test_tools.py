"""A compiler and tools that run from a directory of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.distro.tools import KernelCompiler, is_dynamic, runs_here, wrap_programs


@pytest.mark.parametrize(
    ("text", "compiler"),
    [
        ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", ("gcc-12", "12.2.0", "12.2.0-14+deb12u1")),
        (
            "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0",
            ("gcc-14", "14.2.0", "14.2.0-19"),
        ),
        ("gcc-9 (crosstool-NG 1.24) 9.2.0", ("gcc-9", "9.2.0", "")),
        ("gcc (GCC) 15.1.1 20250425 (Red Hat 15.1.1-1)", None),
        ("Debian clang version 19.1.7 (3+b1)", None),
        ("", None),
    ],
)
def test_the_compiler_is_read_from_the_configuration(
    text: str, compiler: tuple[str, str, str] | None
) -> None:
    assert KernelCompiler.parse(text) == (KernelCompiler(*compiler) if compiler else None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with this machine's C library and a program, as packages bring them."""
    made = tmp_path / "root"
    loader = subprocess.run(["ldd", shutil.which("env") or ""], capture_output=True, text=True)
    paths = [Path(w) for w in loader.stdout.split() if w.startswith("/")]
    for path in paths:
        place = "usr/lib64" if "ld-linux" in path.name else "usr/lib/x86_64-linux-gnu"
        (made / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, made / place / path.name)
    (made / "usr/bin").mkdir(parents=True)
    shutil.copy(shutil.which("env") or "", made / "usr/bin/env")
    (made / "usr/bin/link").symlink_to("env")
    (made / "usr/bin/script").write_text("#!/bin/sh\nexit 7\n")
    (made / "usr/bin/script").chmod(0o755)
    return made


def test_programs_run_with_the_libraries_beside_them(root: Path) -> None:
    programs = root / "usr/bin"
    assert is_dynamic(programs / "env") and not is_dynamic(programs / "script")
    wrap_programs([programs], root, root)
    wrap_programs([programs], root, root)
    assert sorted(path.name for path in programs.iterdir()) == ["env", "env.real", "link", "script"]
    assert str(root / "usr/lib64") in (programs / "env").read_text()
    for name in ("env", "link"):
        done = subprocess.run([programs / name, "A=b", "sh", "-c", "echo $A"], capture_output=True)
        assert (done.stdout, done.stderr) == (b"b\n", b"")
    assert (programs / "script").read_text() == "#!/bin/sh\nexit 7\n"
    assert runs_here(programs / "env")


def test_what_a_killed_run_left_is_finished(root: Path) -> None:
    program = root / "usr/bin/env"
    program.with_name("env.real").hardlink_to(program)
    program.with_name("env.new").write_text("half")
    wrap_programs([program.parent], root, root)
    assert subprocess.run([program, "true"]).returncode == 0
    assert program.read_bytes().startswith(b"#!/bin/sh\n")


def test_a_program_for_a_newer_library_does_not_run_here(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\necho \"$0: /lib/libc.so.6: version 'GLIBC_9.9' not found\" >&2\nexit 1\n"
    )
    program.chmod(0o755)
    assert not runs_here(program)
