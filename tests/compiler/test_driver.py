"""Compile sources with a kernel's flags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.arch import ARM64, PPC64LE, X86_64, Architecture
from klpbuild.compiler.driver import (
    HEADER,
    Compilation,
    compile_source,
    missing_ftrace_flags,
    read_dependencies,
)
from klpbuild.compiler.log import BuildLog
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from tests.objects import functions_with_entry

SOURCE = """\
#include <linux/kernel.h>
#include "own.h"
extern char *saved_command_line;
struct KLP_MODULE_RELOC(vmlinux) relocations[] = { KLP_SYMPOS(saved_command_line, 0) };
const char *livepatch_where(void) { return __FILE__ KBUILD_MODNAME KBUILD_BASENAME; }
char livepatch_first(void) { return saved_command_line[OWN]; }
"""


def _compile(kernel: Kernel, directory: Path, text: str = SOURCE, **options: object) -> Compilation:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "own.h").write_text("#define OWN 0\n")
    source = directory / "my-fix.c"
    source.write_text(text)
    output = directory / "out" / "fix.o"
    return compile_source(kernel, source, output, module_name="livepatch_fix", **options)


def test_object_is_a_part_of_the_module(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    done = _compile(fixtures_kernel, tmp_path)
    elf = ElfFile.read(done.output)
    assert functions_with_entry(elf) == {"livepatch_where", "livepatch_first"}
    assert elf.section(".klp.module_relocs.vmlinux") is not None
    # __FILE__ without a directory, KBUILD_MODNAME, KBUILD_BASENAME as kbuild spells it
    assert b"my-fix.clivepatch_fixmy_fix\0" in bytes(elf.data)
    assert done.said == ""


def test_dependencies_are_absolute_and_complete(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    depfile = tmp_path / "fix.d"
    done = _compile(fixtures_kernel, tmp_path, depfile=depfile)
    assert done.dependencies[0] == tmp_path / "my-fix.c"
    assert {tmp_path / "own.h", HEADER} <= set(done.dependencies)
    assert any(path.name == "autoconf.h" for path in done.dependencies)
    assert all(path.is_absolute() and path.is_file() for path in done.dependencies)
    assert depfile.read_text().startswith(f"{tmp_path}/out/fix.o:")


def test_object_does_not_depend_on_the_directory(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    one = _compile(fixtures_kernel, tmp_path / "one")
    two = _compile(fixtures_kernel, tmp_path / "another" / "place")
    assert one.output.read_bytes() == two.output.read_bytes()


def test_compiler_errors_are_shown_and_nothing_is_left(
    fixtures_kernel: Kernel, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "fix.o"
    output.parent.mkdir()
    output.write_text("the last good one")
    with pytest.raises(KlpError) as caught:
        _compile(fixtures_kernel, tmp_path, "int f(void) { return missing; }\n")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/my-fix.c: does not compile\n")
    assert "my-fix.c:1:22: error: 'missing' undeclared" in text
    assert output.read_text() == "the last good one"
    assert [path.name for path in output.parent.iterdir()] == ["fix.o"]


@pytest.mark.parametrize("more", ["", '#include "nothing.h"\n', "#warning here\n"])
def test_other_files_are_not_quoted(
    fixtures_kernel: Kernel, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, more: str
) -> None:
    """A source may include what only the builder can read, also through a link."""
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("token hunter2: 1\n")
    sources = tmp_path / "fixes/one"
    sources.mkdir(parents=True)
    (sources / "link.h").symlink_to(secret)
    for name in (str(secret), "link.h"):
        log = BuildLog(tmp_path / "build.log")
        with pytest.raises(KlpError) as error:
            _compile(fixtures_kernel, sources, f'#include "{name}"\n{more}', log=log)
        text = str(error.value)
        assert "hunter2" not in text and "token" not in text
        assert "is neither the livepatch's nor the kernel's" in text.replace("which ", "")
    (sources.parent / "shared.h").write_text("token hunter2: 1\n")
    with pytest.raises(KlpError, match="hunter2"):
        _compile(fixtures_kernel, sources, f'#include "../shared.h"\n{more}')


def test_what_is_shown_of_a_command_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = BuildLog(tmp_path / "build.log", echo=True)
    log.command(["gcc"], tmp_path, said="a.c: \x1b]0;title\x07 warning\n\tb")
    said = capsys.readouterr().out
    assert "    a.c: \\x1b]0;title\\x07 warning\n    \tb\n" in said


def test_compiler_warnings_are_returned(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    text = "int f(int a);\nint f(int a) { switch (a) { case 1: a = 2; } return a; int b; }\n"
    done = _compile(fixtures_kernel, tmp_path, text)
    assert done.said
    assert "unused variable 'b' [-Wunused-variable]" in done.said


def test_annotations_that_contradict_each_other(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    text = """\
extern void a(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, init_once, 3);
extern void a(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, init_once, %d);
void livepatch_first(void) { a(); }
"""
    with pytest.raises(KlpError) as caught:
        _compile(fixtures_kernel, tmp_path, text % 4)
    source = tmp_path / "my-fix.c"
    said = str(caught.value).splitlines()
    assert said[0] == f"{source}: annotations of one symbol contradict each other"
    assert said[1].startswith(f"  {source}:2:1: warning: ")
    assert said[-1] == "  Declare two symbols by two names, each with its KLP_RELOC_SYMBOL."
    assert list((tmp_path / "out").iterdir()) == []
    assert _compile(fixtures_kernel, tmp_path, text % 3).said == ""


def test_new_functions_need_no_prototype(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    flags = ["-Wmissing-prototypes"]
    assert _compile(fixtures_kernel, tmp_path, "int f(void) { return 1; }\n").said == ""
    done = _compile(fixtures_kernel, tmp_path, "int f(void) { return 1; }\n", extra_flags=flags)
    assert "no previous prototype" in done.said  # the user's own flags come last


def test_missing_source(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        compile_source(
            fixtures_kernel, tmp_path / "no.c", tmp_path / "no.o", module_name="livepatch_no"
        )
    assert str(caught.value) == f"{tmp_path}/no.c: cannot be read: No such file or directory"


def test_source_with_annotations_of_its_own(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    own = """
#define KLP_RELOC_SYMBOL(gate, owner, symbol) \\
	__asm__("\\".klp.sym.rela." #gate "." #owner "." #symbol ".0\\"")
extern int counter KLP_RELOC_SYMBOL(vmlinux, vmlinux, counter);
int f(void) { return counter; }
"""
    done = _compile(fixtures_kernel, tmp_path, own)
    assert HEADER not in done.dependencies
    names = {symbol.name for symbol in ElfFile.read(done.output).symbol_list}
    assert ".klp.sym.rela.vmlinux.vmlinux.counter.0" in names


def test_log_holds_the_whole_command(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log" / "build.log")
    _compile(fixtures_kernel, tmp_path, log=log)
    _compile(fixtures_kernel, tmp_path, log=log, extra_flags=["-DSECOND=1 2"])
    text = log.path.read_text()
    assert text.count(f"cd {fixtures_kernel.build.resolve()} && ") == 2
    assert "'-DSECOND=1 2'" in text
    entry = json.loads(log.lines.read_text().splitlines()[-1])
    assert entry["file"] == str(tmp_path / "my-fix.c")
    assert entry["output"] == str(tmp_path / "out" / "fix.o")
    assert "-DSECOND=1 2" in entry["arguments"]
    assert entry["arguments"][-2:] == [entry["output"], entry["file"]]


@pytest.mark.parametrize(
    ("arch", "flags", "missing"),
    [
        (X86_64, ["-pg", "-mfentry", "-mrecord-mcount"], ()),
        (X86_64, ["-fpatchable-function-entry=16,16"], ("-pg", "-mfentry")),
        (X86_64, ["-pg"], ("-mfentry",)),
        (ARM64, ["-fpatchable-function-entry=4,2"], ()),
        (ARM64, [], ("-fpatchable-function-entry=2",)),
        (PPC64LE, ["-fpatchable-function-entry=2"], ()),
        (PPC64LE, ["-pg", "-mprofile-kernel"], ()),
        (PPC64LE, ["-pg"], ("-mprofile-kernel",)),
    ],
)
def test_ftrace_flags(arch: Architecture, flags: list[str], missing: tuple[str, ...]) -> None:
    assert missing_ftrace_flags(flags, arch) == missing


def test_dependencies_of_odd_names() -> None:
    rule = "out.o: a\\ b.c \\\n include/x.h /y$$z.h ../up.h\n"
    assert read_dependencies(rule, Path("/kernel/tree")) == (
        Path("/kernel/tree/a b.c"),
        Path("/kernel/tree/include/x.h"),
        Path("/y$z.h"),
        Path("/kernel/up.h"),
    )


@pytest.mark.kernel
def test_debian_object_went_through_objtool(debian_kernel: Kernel, tmp_path: Path) -> None:
    text = "#include <linux/module.h>\n" + SOURCE.replace("#include <linux/kernel.h>\n", "")
    log = BuildLog(tmp_path / "build.log")
    done = _compile(debian_kernel, tmp_path, text, log=log)
    elf = ElfFile.read(done.output)
    assert functions_with_entry(elf) == {"livepatch_where", "livepatch_first"}
    if debian_kernel.version < (6, 2):
        orc = elf.section(".orc_unwind")
        assert orc is not None and orc.sh_flags & SHF.ALLOC
        assert "objtool/objtool --" in log.path.read_text()
    assert done.said == ""


def test_a_compiler_that_is_not_the_kernel_s_is_warned_of_once(
    fixtures_kernel: Kernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fixtures_kernel.config.read_text()
    config = tmp_path / "config"
    config.write_text(f'{text}CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.0.9-1) 12.0.9"\n')
    kernel = replace(fixtures_kernel, config=config, cache=tmp_path / "cache")
    for _ in range(2):
        assert _compile(kernel, tmp_path, "static int x;\n").said
    said = capsys.readouterr().err
    assert said.count("the same source may become other code") == 1
    assert said.startswith("klpbuild: warning: the kernel was built by gcc-12 (Debian 12.0.9-1)")
