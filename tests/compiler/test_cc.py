"""``klpbuild cc``: a compiler driver with a kernel's flags, and a stand-in for the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klpbuild import cli
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from tests.objects import functions_with_entry

SOURCE = """\
extern int value KLP_RELOC_SYMBOL(vmlinux, vmlinux, value);
int livepatch_f(void) { return value + OWN; }
"""


def _cc(*words: str, directory: Path | None = None, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "klpbuild.cli", "cc", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def _gcc(*words: str, directory: Path | None = None) -> tuple[int, str, str]:
    environment = dict(os.environ)
    done = subprocess.run(
        ["gcc", *words], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["-dumpversion"],
        ["-print-file-name=plugin"],
        ["-E", "-P", "-x", "c", "text"],
        ["-no-such-option", "-c", "main.c", "-o", "x.o"],
        ["broken.c", "-c", "-o", "y.o"],
    ],
)
def test_it_answers_as_the_compiler_does(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "text").write_text("a __GNUC__ __x86_64__ b\n")
    (tmp_path / "main.c").write_text("int main(void) { return 3; }\n")
    (tmp_path / "broken.c").write_text("int main(void) { return\n")
    assert _cc(*words, directory=tmp_path, KLPBUILD_CC="gcc") == _gcc(*words, directory=tmp_path)


def test_it_links_a_program(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 3; }\n")
    log = tmp_path / "log"
    assert _cc("main.c", "-o", "main", directory=tmp_path, KLPBUILD_LOG=str(log))[0] == 0
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 3
    assert not log.exists()  # links are no compilations


def test_kernel_module_source_gets_header_entry_and_rule(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    log = tmp_path / "log" / "build.log"
    words = ["-D__KERNEL__", "-DMODULE", "-DOWN=1", "-O2", "-fno-pic", "-c", "-o", "a.o", "a.c"]
    status, said, errors = _cc(*words, directory=tmp_path, KLPBUILD_LOG=str(log))
    assert (status, said) == (0, "")
    assert errors == "klpbuild cc: a.c: adding -pg -mfentry\n"
    elf = ElfFile.read(tmp_path / "a.o")
    assert functions_with_entry(elf) == {"livepatch_f"}
    assert ".klp.sym.rela.vmlinux.vmlinux.value,0" in {s.name for s in elf.symbol_list}
    assert "livepatch.h" in (tmp_path / "a.d").read_text()
    (line,) = log.with_name("commands.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["file"], record["output"]) == ("a.c", "a.o")
    assert record["directory"] == str(tmp_path)
    assert record["arguments"][0] == "gcc"


def test_file_that_kbuild_takes_out_of_ftrace_stays_out(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int f(void) { return 1; }\n")
    words = ["-D__KERNEL__", "-DMODULE", "-DCC_USING_FENTRY", "-c", "a.c", "-o", "a.o"]
    assert _cc(*words, directory=tmp_path) == (0, "", "")
    assert functions_with_entry(ElfFile.read(tmp_path / "a.o")) == frozenset()


def test_program_sources_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("#ifdef KLP_RELOC_SYMBOL\n#error forced\n#endif\nint x;\n")
    assert _cc("-c", "a.c", "-o", "a.o", directory=tmp_path) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.c", "a.o"]


def test_it_builds_a_module_as_kbuilds_compiler(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("obj-m := a.o\n")
    (tmp_path / "a.c").write_text(
        '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n' + SOURCE.replace("OWN", "1")
    )
    cc = f"{sys.executable} -m klpbuild.cli cc"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    words = [f"CC={cc}", f"M={tmp_path}", "KBUILD_MODPOST_WARN=1", "modules"]
    done = subprocess.run(
        ["make", "-C", str(fixtures_kernel.build), *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    elf = ElfFile.read(tmp_path / "a.ko")
    assert ".klp.sym.rela.vmlinux.vmlinux.value,0" in {s.name for s in elf.symbol_list}
    assert "livepatch.h" in (tmp_path / ".a.o.cmd").read_text()


def test_kernel_option_gives_the_kernels_flags(
    fixtures_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "own.h").write_text("#define OWN 4\n")
    (tmp_path / "a.c").write_text('#include <linux/kernel.h>\n#include "own.h"\n' + SOURCE)
    monkeypatch.chdir(tmp_path)
    words = ["cc", f"--kernel={fixtures_kernel.build}", "--module-name", "live-patch"]
    words += ["-Iinc", "-MD", "-c", "a.c", "-o", "out/a.o", "--log", "log"]
    assert cli.main(words) == 0
    assert functions_with_entry(ElfFile.read(tmp_path / "out" / "a.o")) == {"livepatch_f"}
    assert "own.h" in (tmp_path / "out" / "a.d").read_text()
    assert '-DKBUILD_MODNAME="live_patch"' in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a.c"], "klpbuild cc --kernel compiles one C file"),
        (["-c"], "klpbuild cc --kernel compiles one C file"),
        (["-c", "a.c", "b.c"], "klpbuild cc --kernel compiles one C file"),
        (["-c", "a.S"], "klpbuild cc --kernel compiles one C file"),
        (["-c", "a.c", "-o"], "option -o has no argument"),
        (["-c", "missing.c"], "missing.c: cannot be read: No such file or directory"),
    ],
)
def test_words_that_cannot_be_used(
    fixtures_kernel: Kernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["cc", "--kernel", str(fixtures_kernel.build), *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("klpbuild: error: ")
    assert text in captured.err
    assert not list(tmp_path.iterdir())


def test_compiler_that_is_not_there(tmp_path: Path) -> None:
    status, _, errors = _cc("--version", KLPBUILD_CC="no-such-gcc")
    assert status == 1
    assert errors == (
        "klpbuild: error: compiler 'no-such-gcc' does not run: No such file or directory\n"
        "  Name another one in the environment variable KLPBUILD_CC.\n"
    )
