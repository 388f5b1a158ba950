"""From a patch to pairs of objects, with a small kernel that gcc builds."""

from __future__ import annotations

import dataclasses
import posixpath
import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.sharing import local_variables, shared_otherwise
from klpbuild.patch.pair import CompiledPatch, compile_patch
from klpbuild.patch.shadow import make_shadow
from klpbuild.proof.fidelity import prove
from tests.patch.small_kernel import SmallKernel, make_kernel


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    return make_kernel(tmp_path_factory.mktemp("kernel"))


def compiled(small: SmallKernel, tmp_path: Path, *texts: str) -> CompiledPatch:
    patches = []
    for number, text in enumerate(texts):
        patches.append(tmp_path / f"{number}.patch")
        patches[-1].write_text(text)
    return compile_patch(small.kernel, patches, tmp_path / "work", lambda line: None)


def refusal(small: SmallKernel, tmp_path: Path, *texts: str) -> str:
    with pytest.raises(KlpError) as caught:
        compiled(small, tmp_path, *texts)
    return str(caught.value)


def code(path: Path, function: str) -> bytes:
    """A function's bytes and relocations, as objdump shows them."""
    command = ["objdump", "-dr", "--no-addresses", f"--disassemble={function}", path]
    return subprocess.run(command, capture_output=True, check=True).stdout.split(b">:", 1)[-1]


def section_bytes(path: Path, name: str) -> bytes:
    elf = ElfFile.read(path)
    section = elf.section(name)
    assert section is not None
    return bytes(elf.contents(section))


def test_one_function_changes(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("fs/open.c", "number > LIMIT", "number >= 100 * LIMIT")
    result = compiled(small, tmp_path, patch)
    (pair,) = result.pairs
    assert (pair.owner, pair.source, pair.target) == ("vmlinux", "fs/open.c", "fs/open.o")
    assert code(pair.original, "open_file") != code(pair.patched, "open_file")
    assert code(pair.original, "close_file") == code(pair.patched, "close_file")
    assert ElfFile.read(pair.patched).section(".text.open_file") is not None
    assert ElfFile.read(pair.plain).section(".text.open_file") is None


def test_line_and_file_do_not_change(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("fs/open.c", "static int count;", "static int count;\nint added;\n\n")
    (pair,) = compiled(small, tmp_path, patch).pairs
    assert section_bytes(pair.original, ".text.close_file") == section_bytes(
        pair.patched, ".text.close_file"
    )
    strings = ".rodata.open_file.str1.8"
    assert section_bytes(pair.original, strings) == section_bytes(pair.patched, strings)


def test_a_module_is_the_owner(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("drivers/disk/disk.c", "+ 1", "+ 2")
    (pair,) = compiled(small, tmp_path, patch).pairs
    assert pair.owner == "my_disk"
    assert pair.command.module


def test_the_original_is_what_the_kernel_ships(small: SmallKernel, tmp_path: Path) -> None:
    texts = (
        small.patch("fs/open.c", "number > LIMIT", "number < LIMIT"),
        small.patch("drivers/disk/disk.c", "+ 1", "+ 2"),
    )
    result = compiled(small, tmp_path, *texts)
    proofs = [prove(small.kernel, result, pair, lambda line: None) for pair in result.pairs]
    assert [proof.differences for proof in proofs] == [(), ()]
    assert proofs[0].imported == {"open_file"}
    assert proofs[1].proven >= {"open_file", "close_file", "count"}


def test_another_kernel_s_source_is_found_out(small: SmallKernel, tmp_path: Path) -> None:
    other = make_kernel(tmp_path / "other")
    source = other.source / "fs/open.c"
    source.write_text(source.read_text().replace("doubled(count)", "doubled(count) + 1"))
    result = compiled(other, tmp_path, other.patch("fs/open.c", "LIMIT", "9"))
    proof = prove(other.kernel, result, result.pairs[0], lambda line: None)
    assert proof.difference("open_file") is None
    difference = proof.difference("close_file")
    assert difference is not None
    assert "bytes" in difference.what


def test_a_macro_in_a_header_changes_those_that_use_it(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, small.patch("fs/read.h", "READ 7", "READ 6"))
    assert [pair.target for pair in result.pairs] == ["fs/read.o"]
    assert result.unchanged == ("fs/sub/write.o",)


def test_an_inline_function_in_a_header(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("include/linux/kernel.h", "2 * a", "2 * a + 1")
    result = compiled(small, tmp_path, patch)
    shadow = tmp_path / "work/shadow/include/linux/kernel.h"
    assert [pair.target for pair in result.pairs] == ["fs/open.o"], (
        result.unchanged,
        shadow.read_text(),
    )


def test_a_relative_include_takes_the_patched_header(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, small.patch("fs/read.h", "WRITE 8", "WRITE 88"))
    assert [pair.target for pair in result.pairs] == ["fs/sub/write.o"]


def test_a_header_of_a_directory_beside(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, small.patch("lib/near.h", "NEAR 5", "NEAR 6"))
    assert [pair.target for pair in result.pairs] == ["net/socket.o"]


def test_a_header_that_only_a_header_without_code_leads_to(
    small: SmallKernel, tmp_path: Path
) -> None:
    result = compiled(small, tmp_path, small.patch("lib/far.h", "FAR 6", "FAR 7"))
    assert [pair.target for pair in result.pairs] == ["net/packet.o"]


def test_a_patched_file_that_the_compiler_finds_as_it_was(
    small: SmallKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path through a link and back leads out of the shadow tree."""
    without = "klpbuild.patch.pair.make_shadow"
    monkeypatch.setattr(without, lambda *given: make_shadow(*given[:3]))
    found = refusal(small, tmp_path, small.patch("lib/near.h", "NEAR 5", "NEAR 8"))
    assert found == (
        "net/socket.c: net/socket.o is compiled with lib/near.h as it was\n"
        f"  The compiler found it as {tmp_path}/work/shadow/net/../lib/near.h, "
        "which leads out of the patched tree."
    )


@pytest.mark.parametrize("name", ["part.c", "part.h"])
def test_an_object_of_the_makefile_of_another_directory(
    small: SmallKernel, tmp_path: Path, name: str
) -> None:
    """arch/x86/kvm/Makefile lists ../../../virt/kvm/kvm_main.o, which its flags are for."""
    change = {"part.c": ("n + PART", "n - PART"), "part.h": ("PART 4", "PART 5")}[name]
    result = compiled(small, tmp_path, small.patch(f"drivers/shared/{name}", *change))
    (pair,) = result.pairs
    assert (pair.owner, pair.source) == ("my_disk", "drivers/shared/part.c")
    assert pair.target == "drivers/disk/../shared/part.o"
    assert prove(small.kernel, result, pair, lambda line: None).differences == ()


def test_a_generated_header_is_made(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("lib/table.c", "return GENERATED", "return 1 + GENERATED")
    assert [pair.target for pair in compiled(small, tmp_path, patch).pairs] == ["lib/table.o"]


def test_a_new_header(small: SmallKernel, tmp_path: Path) -> None:
    new = "--- /dev/null\n+++ b/fs/new.h\n@@ -0,0 +1 @@\n+#define NEW 5\n"
    old = (small.source / "fs/read.c").read_text()
    use = small.patch("fs/read.c", old, '#include "new.h"\n' + old.replace("READ +", "NEW +"))
    result = compiled(small, tmp_path, new, use)
    assert [pair.target for pair in result.pairs] == ["fs/read.o"]
    assert result.notes == ("0.patch:1: fs/new.h is new",)


def test_errors_of_the_compiler_name_the_patch(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch(
        "fs/open.c", "static int count;\n", "static int count;\nint x;\nint y = z;\n"
    )
    assert refusal(small, tmp_path, patch) == (
        "0.patch:8: fs/open.c does not compile alone: 'z' undeclared here (not in a function)\n"
        "  fs/open.c:5\n"
        "  The patch may need another file's change that belongs to the same fix."
    )


def test_each_error_of_several_objects_is_said_once(small: SmallKernel, tmp_path: Path) -> None:
    """They fail at the same time; one of the errors is in a header of two of them."""
    texts = (
        small.patch("fs/read.h", "#define WRITE 8", "#define WRITE 8\nint x = in_header;"),
        small.patch("fs/open.c", "return count++", "return in_open"),
        small.patch("lib/table.c", "return GENERATED", "return unknown"),
        small.patch("kernel/warn.c", "warnings +=", "unknown +="),
    )
    found = [line for line in refusal(small, tmp_path, *texts).splitlines() if line[0] != " "]
    alone = "does not compile alone:"
    wanted = [
        f"0.patch:6: fs/read.h {alone} 'in_header' undeclared here (not in a function)",
        f"1.patch:8: fs/open.c {alone} 'in_open' undeclared (first use in this function)",
        f"2.patch:8: lib/table.c {alone} 'unknown' undeclared (first use in this function)",
        f"3.patch:8: kernel/warn.c {alone} 'unknown' undeclared (first use in this function)",
    ]
    assert sorted(found) == wanted
    assert not list((tmp_path / "work").glob("refused-*"))


def test_an_error_in_a_file_that_is_not_patched(small: SmallKernel, tmp_path: Path) -> None:
    """The note of where the function is declared leads to the patch."""
    patch = small.patch("include/linux/kernel.h", "doubled(int a)", "doubled(int a, int b)")
    assert refusal(small, tmp_path, patch) == (
        "0.patch:8: fs/open.c does not compile alone: too few arguments to function 'doubled'\n"
        "  fs/open.c:15\n"
        "  The patch may need another file's change that belongs to the same fix."
    )


def test_the_header_of_kpatch_s_macros(small: SmallKernel, tmp_path: Path) -> None:
    include = '#include "kpatch-macros.h"\n\nstatic int count;'
    assert refusal(small, tmp_path, small.patch("fs/open.c", "static int count;", include)) == (
        "0.patch:6: fs/open.c does not compile alone: kpatch-macros.h: No such file or directory\n"
        "  fs/open.c:3\n"
        "  kpatch's macros are not read here: make the callback a global function, and say in\n"
        '  livepatch.toml: callbacks = { pre_patch = "NAME" }'
    )


@pytest.mark.parametrize(
    "line",
    [
        '#include "{}"',
        '#define FILE "{}"\n#include FILE',
        '#line 1 "{}"\nint x = y;',
        '#include "link.h"',
        'asm(".include \\"{}\\"");',
    ],
)
def test_no_other_file_is_quoted(small: SmallKernel, tmp_path: Path, line: str) -> None:
    """A patch may include any file of the machine: the error does not tell what is in it."""
    secret = tmp_path / "secret"
    secret.write_text("root:$6$hidden:19000\n")
    link = small.source / "fs/link.h"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    new = line.format(secret) + "\nstatic int count;"
    patch = tmp_path / "fix.patch"
    patch.write_text(small.patch("fs/open.c", "static int count;", new))
    log: list[str] = []
    with pytest.raises(KlpError) as caught:
        compile_patch(small.kernel, [patch], tmp_path / "work", log.append)
    link.unlink()
    assert "what the compiler says of it is not shown" in str(caught.value)
    assert "hidden" not in "".join((str(caught.value), *log))
    assert "root" not in str(caught.value).replace("root/", "")


def test_an_old_line_that_no_longer_compiles(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch(
        "fs/open.c", "static int count;\n", "struct s { int a; };\nextern struct s count;\n"
    )
    text = refusal(small, tmp_path, patch)
    assert text.startswith("0.patch:")
    assert "  fs/open.c:10\n" in text


def test_a_patch_that_makes_no_difference(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, small.patch("fs/open.c", "count++", "count++ + 0"))
    assert result.pairs == ()
    assert result.unchanged == ("fs/open.o",)


def test_a_file_that_the_kernel_is_not_made_from(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("drivers/not_built.c", "nothing", "something")
    assert refusal(small, tmp_path, patch) == (
        "0.patch:1: the patch changes nothing in this kernel: "
        "no object is made from drivers/not_built.c\n"
        "  The kernel's configuration leaves it out.\n"
        "  There is nothing that a livepatch could replace."
    )
    patch = small.patch("tools/program.c", "return 0", "return 1")
    assert refusal(small, tmp_path, patch).startswith(
        "0.patch:1: the patch changes nothing in this kernel: it changes no code of it"
    )


def test_files_that_are_not_in_this_kernel_are_left_out(small: SmallKernel, tmp_path: Path) -> None:
    other = "--- a/arch/arm/mm.S\n+++ b/arch/arm/mm.S\n@@ -1 +1 @@\n-x\n+y\n"
    result = compiled(
        small,
        tmp_path,
        small.patch("drivers/not_built.c", "nothing", "something"),
        small.patch("fs/open.c", "number > LIMIT", "number > 8"),
        other,
    )
    assert [pair.target for pair in result.pairs] == ["fs/open.o"]
    assert result.notes == (
        "2.patch:1: arch/arm/mm.S is of another architecture; left out",
        "0.patch:1: no object is made from drivers/not_built.c; left out",
    )


def added(path: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(
        [f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{len(lines)} @@\n", *(f"+{x}" for x in lines)]
    )


NEW = "int open_file(int);\nint helper(int n)\n{\n\treturn open_file(n) + KEPT;\n}\n"


def test_a_new_c_file_has_no_makefile(small: SmallKernel, tmp_path: Path) -> None:
    assert refusal(small, tmp_path, added("fs/new.c", NEW)) == (
        "0.patch:1: the new file fs/new.c is in no object of this kernel\n"
        "  No Makefile names it in this configuration, with the patch.\n"
        "  Add it to a Makefile, or #include it in the file that calls it."
    )


def test_a_new_c_file_of_vmlinux(small: SmallKernel, tmp_path: Path) -> None:
    """kbuild says how it is compiled; before the patch it was empty."""
    result = compiled(
        small,
        tmp_path,
        small.patch("fs/Makefile", "obj-y += sub/write.o", "obj-y += sub/write.o new.o"),
        small.patch("fs/read.h", "#define READ 7", "#define READ 7\n#define KEPT 1"),
        added("fs/new.c", '#include "read.h"\n' + NEW),
    )
    (pair,) = result.pairs
    assert (pair.owner, pair.source, pair.target) == ("vmlinux", "fs/new.c", "fs/new.o")
    assert code(pair.patched, "helper")
    assert not [s for s in ElfFile.read(pair.original).symbol_list if s.is_function]
    assert not pair.command.module
    proof = prove(small.kernel, result, pair, lambda line: None)
    assert proof.differences == ()


@pytest.mark.parametrize(
    ("makefile", "old", "new"),
    [
        ("drivers/shared/Makefile.disk", "/part.o", "/part.o $(SHARED)/new.o"),
        (
            "drivers/disk/Makefile",
            "Makefile.disk\n",
            "Makefile.disk\nmy-disk-objs += ${SHARED}/new.o\n",
        ),
    ],
)
def test_a_new_c_file_of_another_directory(
    small: SmallKernel, tmp_path: Path, makefile: str, old: str, new: str
) -> None:
    """virt/kvm/Makefile.kvm is included by the directory that makes its objects."""
    patch = small.patch(makefile, old, new)
    result = compiled(
        small, tmp_path, patch, added("drivers/shared/new.c", "#define KEPT 2\n" + NEW)
    )
    (pair,) = result.pairs
    assert (pair.owner, pair.source) == ("my_disk", "drivers/shared/new.c")
    assert pair.target == "drivers/disk/../shared/new.o"
    assert "-DFOR_DISK" in pair.command.arguments


def test_a_new_c_file_that_a_variable_does_not_lead_to(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("drivers/shared/Makefile.disk", "/part.o", "/part.o $(obj)/new.o")
    assert refusal(small, tmp_path, patch, added("drivers/shared/new.c", NEW)) == (
        "1.patch:1: the new file drivers/shared/new.c is in no object of this kernel\n"
        "  No Makefile names it in this configuration, with the patch.\n"
        "  Add it to a Makefile, or #include it in the file that calls it."
    )


@pytest.mark.parametrize("name", ["queue/new", "../shared/new"])
def test_a_new_c_file_of_a_module(small: SmallKernel, tmp_path: Path, name: str) -> None:
    result = compiled(
        small,
        tmp_path,
        small.patch("drivers/disk/Makefile", ":= disk.o", f":= disk.o \\\n\t\t{name}.o # more"),
        added(posixpath.normpath(f"drivers/disk/{name}.c"), "#define KEPT 2\n" + NEW),
    )
    (pair,) = result.pairs
    assert (pair.owner, pair.target) == ("my_disk", f"drivers/disk/{name}.o")
    assert pair.command.module and "-DFOR_DISK" in pair.command.arguments


def test_flags_of_a_new_c_file(small: SmallKernel, tmp_path: Path) -> None:
    flags = "CFLAGS_new.o := -DMORE=1 -I$(src)/../x -O2 -Wno-all $(call cc-option, -fno-builtin)\n"
    makefile = small.patch("fs/Makefile", "sub/write.o\n", f"sub/write.o new.o\n{flags}")
    (pair,) = compiled(small, tmp_path, makefile, added("fs/new.c", "#define KEPT 2\n" + NEW)).pairs
    assert pair.source == "fs/new.c"


def test_a_new_c_file_that_another_one_includes(small: SmallKernel, tmp_path: Path) -> None:
    old = (small.source / "fs/read.c").read_text()
    use = small.patch("fs/read.c", old, old + '#define KEPT 3\n#include "new.c"\n')
    result = compiled(small, tmp_path, added("fs/new.c", NEW), use)
    assert [pair.target for pair in result.pairs] == ["fs/read.o"]
    assert code(result.pairs[0].patched, "helper")


def test_a_new_module(small: SmallKernel, tmp_path: Path) -> None:
    text = refusal(
        small,
        tmp_path,
        added("drivers/other/new.c", NEW),
        small.patch("drivers/other/Makefile", "# none\n", "# none\nobj-m += new.o\n"),
    )
    assert text == (
        "0.patch:1: the new file drivers/other/new.c would be part of new, "
        "which this kernel does not have\n"
        "  A livepatch changes objects that the kernel has.\n"
        "  Build a new module as a module of its own."
    )


def test_a_new_file_in_a_directory_that_is_not_built(small: SmallKernel, tmp_path: Path) -> None:
    text = refusal(
        small,
        tmp_path,
        added("drivers/other/new.c", NEW),
        small.patch("drivers/other/Makefile", "# none\n", "# none\nobj-y += new.o\n"),
    )
    assert text.startswith(
        "0.patch:1: the new file drivers/other/new.c would be part of vmlinux, which"
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        (
            "obj-y += sub/write.o",
            "obj-y += sub/write.o other.o",
            6,
            "'other.o' is not one of them.",
        ),
        ("obj-y += sub/write.o", "obj-y += new.o", 1, "'sub/write.o' goes."),
        *(
            (
                "obj-y += sub/write.o",
                f"obj-y += sub/write.o new.o\nCFLAGS_new.o {flags}",
                7,
                f"{wrong!r} is no flag for one.",
            )
            for flags, wrong in (
                (":= -DX $(shell touch here)", "$(shell"),
                (":= -DX;touch here", "-DX;touch"),
                (":= -Ia|touch here", "-Ia|touch"),
                ("!= touch here", "!="),
                ("+= -I$(src) -fplugin=x.so", "-fplugin=x.so"),
                ("+= @flags", "@flags"),
                ("+= -Wp,-MD,x", "-Wp,-MD,x"),
            )
        ),
        (
            "obj-y += sub/write.o",
            "obj-y += sub/write.o new.o\nccflags-y += -DX",
            7,
            "'-DX' is not one of them.",
        ),
    ],
)
def test_other_changes_of_a_makefile(
    small: SmallKernel, tmp_path: Path, old: str, new: str, line: int, why: str
) -> None:
    text = refusal(small, tmp_path, small.patch("fs/Makefile", old, new) + added("fs/new.c", NEW))
    assert text.startswith(f"0.patch:{line}: fs/Makefile decides how the kernel is built\n")
    assert f"only new objects of new files count. {why}" in text


def test_errors_in_a_new_file(small: SmallKernel, tmp_path: Path) -> None:
    makefile = small.patch("fs/Makefile", "sub/write.o", "sub/write.o new.o")
    assert refusal(small, tmp_path, makefile, added("fs/new.c", NEW)).startswith(
        "1.patch:7: fs/new.c does not compile alone: 'KEPT' undeclared"
    )


def test_the_source_tree_stays_as_it_is(small: SmallKernel, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in small.source.rglob("*") if path.is_file()}
    compiled(small, tmp_path, small.patch("fs/read.h", "READ 7", "READ 5"))
    assert before == {path: path.read_bytes() for path in small.source.rglob("*") if path.is_file()}


def test_the_second_time_nothing_is_compiled(small: SmallKernel, tmp_path: Path) -> None:
    patch = tmp_path / "fix.patch"
    patch.write_text(small.patch("fs/open.c", "number > LIMIT", "number > 7"))
    log: list[str] = []
    for _ in range(2):
        log.clear()
        compile_patch(small.kernel, [patch], tmp_path / "work", log.append)
    assert not [line for line in log if line.startswith(("gcc ", "make "))]


def test_without_debug_symbols(small: SmallKernel, tmp_path: Path) -> None:
    bare = dataclasses.replace(small.kernel, vmlinux=None)
    text = refusal(
        SmallKernel(bare, small.source), tmp_path, small.patch("fs/open.c", "LIMIT", "7")
    )
    assert text == (
        "small: the kernel's debug symbols are not at hand\n"
        "  They say which objects a source file is in, and prove that it compiles to what runs.\n"
        "  Name it with --vmlinux (scons: VMLINUX=), --source (scons: KSRC=), or build the kernel"
        " with CONFIG_DEBUG_INFO=y."
    )


def test_where_a_weak_function_is(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("fs/open.c", "number > LIMIT", "number >= 100 * LIMIT")
    result = compiled(small, tmp_path, patch)
    texts = {
        "fs/read.c": "int read_file(int a) { return may_open(a); }\n",
        "fs/open.c": "void __weak __init may_open(void);\nint __weak\nmay_open(int a)\n{\n}\n",
        "fs/sub/write.c": "void __attribute__((weak)) may_write(void) { }\n",
    }
    tree = dataclasses.replace(result.tree, source=tmp_path)
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    made = dataclasses.replace(result, tree=tree, sources=frozenset(texts))
    names = ("may_open", "may_write", "read_file", "may")
    assert [made.weak_in(name) for name in names] == ["fs/open.c", "fs/sub/write.c", "", ""]


def test_types_of_variables_before_and_after(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("fs/open.c", "static int count;", "static long count;")
    result = compiled(small, tmp_path, patch)
    (pair,) = result.pairs
    types = [result.variable_types(pair, patched)["count"].text for patched in (False, True)]
    assert types == ["int", "long int"]


SHARING = """static int count;
#define SHARED __attribute__((section(".data..read_mostly")))
static int first[8] SHARED, second[8] SHARED;
int weigh(unsigned long n)
{
	return first[n + 8] + second[n + 97];
}
void put(unsigned long n)
{
	first[n] = second[n] = n;
}
"""


def test_references_into_a_section_of_several_variables(small: SmallKernel, tmp_path: Path) -> None:
    """As(1) writes them as offsets: one that counts from behind a variable is in another."""
    result = compiled(small, tmp_path, small.patch("fs/open.c", "static int count;", SHARING))
    (pair,) = result.pairs
    objects = [ElfFile.read(path) for path in (pair.original, pair.patched)]
    sections = shared_otherwise(*objects)
    assert sections == {".data..read_mostly"}
    none, names = (local_variables(elf, sections) for elf in objects)
    assert (none, sorted(names)) == ((), ["first", "second"])
    named = result.compiler.with_names(pair.command, True, objects[1], names)
    of_function = named.section(".rela.text.weigh")
    assert of_function is not None
    found = {
        (named.symbol(int(row["r_sym"])).name, int(row["r_addend"]))
        for row in named.relocations(of_function)
        if row["r_sym"]
    }
    assert found == {("first", 32), ("second", 388)}
    assert named.symbol_list == objects[1].symbol_list


def test_sections_that_hold_the_same_as_before(small: SmallKernel, tmp_path: Path) -> None:
    patch = small.patch("fs/open.c", "number > LIMIT", "number >= 100 * LIMIT")
    (pair,) = compiled(small, tmp_path, patch).pairs
    assert not shared_otherwise(ElfFile.read(pair.original), ElfFile.read(pair.patched))
