"""What lies beside a module, and what `klpbuild info` makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from klpbuild.check.kernelside import modinfo
from klpbuild.cli import main
from klpbuild.elf.reader import ElfFile
from klpbuild.package.compression import Compression, compress
from tests.scons.checkout import Checkout

pytestmark = pytest.mark.slow

OWN_TABLES = """
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/livepatch.h>
#include "../common.h"

extern char *saved_command_line;
static int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	return saved_command_line[0];
}
static struct klp_func functions[] = {
	{ .old_name = "cmdline_proc_show", .new_func = livepatch_cmdline_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };
static int __init own_init(void) { return klp_enable_patch(&patch); }
module_init(own_init);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""


@pytest.fixture
def module(shared: Checkout, tmp_path: Path) -> Path:
    """A copy of a built module, with what lies beside it."""
    for path in (shared.directory / "build/fixtures").glob("livepatch-meminfo.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "livepatch-meminfo.ko"


def test_a_module_and_its_provenance(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(module)]) == 0
    said = capsys.readouterr().out
    assert "  vmlinux:meminfo_proc_show by livepatch_meminfo_proc_show\n" in said
    assert "  vmlinux:si_swapinfo,0 in .text, with the livepatch\n" in said
    assert "  is about this module, by its sha256\n" in said
    assert "  lists the 5 inputs whose digest the module carries\n" in said
    assert "  meminfo.c (source)\n" in said

    packed = module.parent / "finished" / "livepatch-meminfo.ko.xz"
    packed.parent.mkdir()
    packed.write_bytes(compress(module.read_bytes(), Compression.XZ))
    assert main(["info", "--json", str(packed)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["compression"] == "xz"
    assert document["provenance"]["file_matches"] and document["provenance"]["inputs_match"]


def test_a_module_that_was_changed(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module.write_bytes(module.read_bytes() + b"\0")
    assert main(["info", str(module)]) == 1
    assert "  IS ABOUT ANOTHER MODULE, by its sha256\n" in capsys.readouterr().out


def test_a_module_without_its_provenance(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provenance = module.with_suffix(".provenance.json")
    elsewhere = provenance.rename(module.with_name("elsewhere.json"))
    assert main(["info", str(module)]) == 0
    assert capsys.readouterr().out.endswith("no provenance file beside it\n")
    assert main(["info", str(module), "--provenance", str(elsewhere)]) == 0
    elsewhere.write_text("{}")
    assert main(["info", str(module), "--provenance", str(elsewhere)]) == 2
    assert capsys.readouterr().err == (
        f"klpbuild: error: {elsewhere}: is not a provenance file of klpbuild\n"
        "  It is an in-toto statement with the predicate urn:x-klpbuild:provenance:1.\n"
        "  Build the module again to get one.\n"
    )


def test_a_livepatch_with_tables_of_its_own(shared: Checkout) -> None:
    livepatches = shared.directory / "fixes"
    directory = livepatches / "own"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "own.c").write_text(OWN_TABLES)
    (livepatches / "common.h").write_text("/* first */\n")
    shared.scons("livepatches=fixes", "livepatch=own")
    build = shared.directory / "build/fixtures"
    information = modinfo(ElfFile.read(build / "livepatch-own.ko"))
    statement = json.loads((build / "livepatch-own.provenance.json").read_text())
    inputs = statement["predicate"]["inputs"]
    assert information["klpbuild_inputs"] == [inputs["sha256"]]
    assert [entry["name"] for entry in inputs["files"]][:3] == [
        "own.c", "../common.h", "klpbuild/livepatch.h"
    ]  # fmt: skip
    # Only a comment changes: the same code, and another digest.
    (livepatches / "common.h").write_text("/* second */\n")
    shared.scons("livepatches=fixes", "livepatch=own")
    changed = modinfo(ElfFile.read(build / "livepatch-own.ko"))
    assert changed["klpbuild_inputs"] != information["klpbuild_inputs"]
