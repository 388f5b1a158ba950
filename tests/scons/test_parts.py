"""A livepatch made of parts, built for the miniature kernel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from tests.scons.checkout import Checkout
from tests.scons.livepatches import add_patch

pytestmark = pytest.mark.slow

TOML = """\
description = "by hand"
references = ["CVE-2024-1002"]
[[object]]
name = "vmlinux"
functions = [{ old = "cmdline_proc_show", new = "livepatch_cmdline_proc_show" }]
"""
SOURCE = """\
#include <linux/seq_file.h>
#include "words.h"
extern char *saved_command_line;
int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, WORDS, saved_command_line);
	return 0;
}
"""
PATH = "build/fixtures/livepatch-all-fixes"


@pytest.fixture
def whole(shared: Checkout) -> Iterator[Path]:
    """A livepatch of one part of C files and one of a patch."""
    whole = shared.directory / "own/all-fixes"
    (whole / "hand").mkdir(parents=True)
    (whole / "livepatch.toml").write_text('parts = ["hand", "fixes"]\n')
    (whole / "words.h").write_text('#define WORDS "%s livepatch=1\\n"\n')
    (whole / "hand" / "livepatch.toml").write_text(TOML)
    (whole / "hand" / "main.c").write_text(SOURCE)
    add_patch(whole / "fixes")
    yield whole
    shutil.rmtree(whole)


def test_both_kinds(shared: Checkout, whole: Path) -> None:
    said = shared.scons("livepatches=own")
    assert "          hand             CVE-2024-1002  cmdline_proc_show  in; by hand\n" in said
    assert "          fixes/fix.patch  -              meminfo_proc_show  in\n" in said
    assert "          2 fixes: 2 in.\n" in said
    assert shared.scons("livepatches=own").startswith("scons: `livepatch' is up to date.\n")
    result = json.loads((shared.directory / f"{PATH}/result.json").read_text())
    assert [(f["part"], f["patch"], f["standing"]) for f in result["fixes"]] == [
        ("hand", "", "in"),
        ("fixes", "fix.patch", "in"),
    ]
    provenance = (shared.directory / f"{PATH}.provenance.json").read_text()
    assert json.loads(provenance)["predicate"]["references"] == [
        {"kind": "cve", "id": "CVE-2024-1002", "where": "livepatch.toml"}
    ]
    named = {f["name"] for f in json.loads(provenance)["predicate"]["inputs"]["files"]}
    assert {"hand/main.c", "words.h", "fix.patch", "hand/livepatch.toml#content"} <= named
    (whole / "words.h").write_text('#define WORDS "%s livepatch=2\\n"\n')
    assert "livepatch-all-fixes/parts/hand/main.o" in shared.built("livepatches=own")


def test_a_function_that_a_patch_and_c_files_replace(shared: Checkout, whole: Path) -> None:
    toml = whole / "hand" / "livepatch.toml"
    toml.write_text(TOML.replace("cmdline_proc_show", "meminfo_proc_show", 1))
    hand = "own/all-fixes/hand/livepatch.toml:5"
    said = shared.scons("livepatches=own", status=2)
    assert (
        f"{hand}: function 'meminfo_proc_show' of 'vmlinux' is replaced by two parts\n"
        "  The other one: fix.patch.\n"
        "  Make one replacement of both, and take the other one away.\n"
    ) in said


def test_a_symbol_of_the_kernel_that_another_part_defines(shared: Checkout, whole: Path) -> None:
    (whole / "hand" / "more.c").write_text("void seq_puts(void)\n{\n}\n")
    said = shared.scons("livepatches=own", status=2)
    assert "'seq_puts' is the kernel's here, and hand defines it\n" in said
    assert "  In one module the one would be taken for the other.\n" in said
    assert "  Make it static in hand, or give it another name there.\n" in said


def test_a_patch_that_does_not_apply(shared: Checkout, whole: Path) -> None:
    patch = whole / "fixes" / "fix.patch"
    patch.write_text(patch.read_text().replace("-", "-x", 1).replace("MemFree", "MemFrei"))
    said = shared.scons("livepatches=own", status=2)
    assert "fixes/fix.patch" in said
    result = json.loads((shared.directory / f"{PATH}/result.json").read_text())
    assert [(f["part"], f["standing"]) for f in result["fixes"]] == [
        ("hand", "not tried"),
        ("fixes", "does not apply"),
    ]


def test_what_is_left_out_on_purpose(shared: Checkout, whole: Path) -> None:
    toml = 'parts = ["hand", "fixes"]\nskip = [{ part = "hand", reason = "see elsewhere" }]\n'
    (whole / "livepatch.toml").write_text(toml)
    said = shared.scons("livepatches=own")
    assert "left out on purpose: see elsewhere; by hand" in said
    vex = json.loads((shared.directory / f"{PATH}.openvex.json").read_text())
    assert [(s["vulnerability"]["name"], s["status"]) for s in vex["statements"]] == [
        ("CVE-2024-1002", "affected")
    ]


def test_patches_that_are_all_left_out_on_purpose(shared: Checkout, whole: Path) -> None:
    toml = 'parts = ["hand", "fixes"]\nskip = [{ part = "fixes", reason = "see elsewhere" }]\n'
    (whole / "livepatch.toml").write_text(toml)
    said = shared.scons("livepatches=own")
    assert "left out on purpose: see elsewhere" in said
    assert "          2 fixes: 1 in, 1 left out on purpose.\n" in said
    result = json.loads((shared.directory / f"{PATH}/result.json").read_text())
    assert [(f["part"], f["patch"], f["standing"]) for f in result["fixes"]] == [
        ("hand", "", "in"),
        ("fixes", "fix.patch", "left out on purpose"),
    ]


def test_shadow_variables_that_the_text_does_not_show(shared: Checkout, whole: Path) -> None:
    (whole / "hand" / "more.c").write_text(
        "#define CALL(name) klp_shadow_ ## name\n"
        "void *CALL(alloc)(void *of, unsigned long number);\n"
        "void *make(void *of);\n"
        "void *make(void *of)\n"
        "{\n\treturn CALL(alloc)(of, 1);\n}\n"
    )
    said = shared.scons("livepatches=own", status=2)
    assert (
        "own/all-fixes/hand/more.c: makes shadow variables, which its text does not show\n"
        "  The livepatch that takes its place must know of them.\n"
        "  Write state_version = 1 into own/all-fixes/hand/livepatch.toml.\n"
    ) in said


def test_what_cannot_be_in_it_is_left_out_with_k(shared: Checkout, whole: Path) -> None:
    (whole / "fixes" / "other.patch").write_text(
        "Subject: other\n\n--- a/fs/proc/meminfo.c\n+++ b/fs/proc/meminfo.c\n"
        "@@ -1,3 +1,3 @@\n is\n-not\n+no\n there\n"
    )
    said = shared.scons("livepatches=own", "-k", status=2)
    assert "          3 fixes: 2 in, 1 does not apply.\n" in said
    assert (shared.directory / f"{PATH}.ko").is_file()


@pytest.mark.parametrize(
    ("old", "new", "standing", "why"),
    [
        ("return 0;", "return zero;", "does not compile", "hand/main.c: 'zero' undeclared"),
        ("int livepatch_cmdline_proc_show", "int other", "refused",
         "new function 'livepatch_cmdline_proc_show' is not defined"),
    ],
)  # fmt: skip
def test_c_files_that_cannot_be_in_it_are_left_out_with_k(
    shared: Checkout, whole: Path, old: str, new: str, standing: str, why: str
) -> None:
    (whole / "hand" / "more.c").write_text("int more(void);\nint more(void)\n{\n\treturn 1;\n}\n")
    (whole / "hand" / "main.c").write_text(SOURCE.replace(old, new))
    shared.scons("livepatches=own", status=2)
    said = shared.scons("livepatches=own", "-k", status=2)
    assert f"          hand             CVE-2024-1002  -                  {standing}: " in said
    assert f"          2 fixes: 1 in, 1 {standing}.\n" in said
    assert "1 fix is left out\n" in said
    result = json.loads((shared.directory / f"{PATH}/result.json").read_text())
    assert [(f["part"], f["standing"]) for f in result["fixes"]] == [
        ("hand", standing),
        ("fixes", "in"),
    ]
    assert why in result["fixes"][0]["why"]
    module = ElfFile.read(shared.directory / f"{PATH}.ko")
    assert not {"more", "livepatch_cmdline_proc_show"} & {s.name for s in module.symbol_list}
    again = shared.scons("livepatches=own", "-k", status=2)
    assert "1 fix is left out\n" in again
    (whole / "hand" / "main.c").write_text(SOURCE)
    assert "          2 fixes: 2 in.\n" in shared.scons("livepatches=own", "-k")


def test_where_no_part_is_left_nothing_is_built(shared: Checkout, whole: Path) -> None:
    (whole / "hand" / "main.c").write_text(SOURCE.replace("return 0;", "return zero;"))
    (whole / "livepatch.toml").write_text(
        'parts = ["hand", "fixes"]\nskip = [{ part = "fixes", reason = "no" }]\n'
    )
    said = shared.scons("livepatches=own", "-k", status=2)
    assert "'zero' undeclared" in said
    assert "  KLP  " not in said


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        ("return 0;", "return zero;", "own/all-fixes/hand/main.c: does not compile"),
        ("cmdline_proc_show(", "other(", "is not defined by the livepatch's sources"),
    ],
)
def test_the_result_of_a_build_that_fails_behind_the_patches(
    shared: Checkout, whole: Path, old: str, new: str, detail: str
) -> None:
    """It takes the place of what the build before left, and goes with what is wrong."""
    shared.scons("livepatches=own")
    (whole / "hand" / "main.c").write_text(SOURCE.replace(old, new))
    shared.scons("livepatches=own", status=2)
    path = shared.directory / f"{PATH}/result.json"
    result = json.loads(path.read_text())
    assert result["outcome"] == "failed"
    assert detail in result["detail"]
    assert [(f["part"], f["standing"]) for f in result["fixes"]] == [
        ("hand", "not tried"),
        ("fixes", "in"),
    ]
    (whole / "hand" / "main.c").write_text(SOURCE)
    shared.scons("livepatches=own")
    assert json.loads(path.read_text())["outcome"] == "would load"


def test_editors_see_the_flags_of_parts(shared: Checkout, whole: Path) -> None:
    shared.scons("livepatches=own", "compile_commands")
    commands = json.loads((shared.directory / "build/compile_commands.json").read_text())
    (arguments,) = (c["arguments"] for c in commands if c["file"].endswith("hand/main.c"))
    assert f"-I{whole}" in arguments


def test_a_copy_of_what_another_part_replaces(shared: Checkout, whole: Path) -> None:
    source = whole / "hand" / "main.c"
    source.write_text(
        "static noinline int meminfo_proc_show(int i)\n{\n\treturn i + 1;\n}\n"
        + SOURCE.replace("return 0;", "return meminfo_proc_show(-1);")
    )
    said = shared.scons("livepatches=own")
    place = "build/fixtures/livepatch-all-fixes/parts/hand/main.o"
    assert f"{place}: has a copy of meminfo_proc_show(), which fix.patch replaces\n" in said
    assert said.count("has a copy of") == 1
