"""Parts in SUSE's layout, built for the miniature kernel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scons.checkout import Checkout

pytestmark = pytest.mark.slow

SOURCE = """\
/*
 * livepatch_bsc1
 *
 * Fix for CVE-2024-2001, bsc#1
 */
#if IS_ENABLED(CONFIG_PROC_FS)
#include <linux/seq_file.h>
#include "livepatch_bsc1.h"
#include "../helper.h"
int KLP_SYM(klpp_cmdline)(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\\n", helper());
	return 0;
}
int livepatch_bsc1_init(void)
{
	return helper() - 42;
}
#endif
"""
HEADER = """\
#include "klp_syms.h"
int livepatch_bsc1_init(void);
static inline void livepatch_bsc1_cleanup(void) {}
"""
INLINE = """\
static inline int livepatch_bsc2_init(void) { return 0; }
static inline void livepatch_bsc2_cleanup(void) {}
"""
FILES = {
    "livepatch.toml": 'parts = ["bsc1", "bsc2"]\nskip = ["uname_patch"]\n',
    "klp_syms.h": "#define KLP_SYM(name) name ## _proc_show\n",
    "helper.h": "int helper(void);\n",
    "helper.c": "int helper(void);\nint helper(void)\n{\n\treturn 42;\n}\n",
    "bsc1/livepatch_bsc1.c": SOURCE,
    "bsc1/livepatch_bsc1.h": HEADER,
    "bsc1/patched_funcs.csv": "vmlinux KLP_SYM(cmdline) KLP_SYM(klpp_cmdline) defined(KLP_SYM)\n",
    "bsc1/Kbuild.inc": "CFLAGS_livepatch_bsc1.o += -Werror\n",
    "bsc2/livepatch_bsc2.c": "/* Fix for CVE-2024-2002 */\n",
    "bsc2/livepatch_bsc2.h": INLINE,
    "bsc2/patched_funcs.csv": "net/x.ko gone klpp_gone IS_ENABLED(CONFIG_S390)\n",
    "uname_patch/livepatch_uname.c": "",
}


@pytest.fixture
def whole(shared: Checkout) -> Iterator[Path]:
    """A livepatch of two fixes as SUSE keeps them."""
    whole = shared.directory / "suse" / "all"
    for name, text in FILES.items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_text(text)
    yield whole
    shutil.rmtree(whole)


def test_fixes_are_read_as_they_are(shared: Checkout, whole: Path) -> None:
    said = shared.scons("livepatches=suse")
    assert (
        "          part  CVE            functions          result\n"
        "          bsc1  CVE-2024-2001  cmdline_proc_show  in; Fix for CVE-2024-2001, bsc#1\n"
        "          bsc2  -              -                  changes nothing in this kernel:"
        " no condition of its patched_funcs.csv holds; Fix for CVE-2024-2002\n"
        "          2 fixes: 1 in, 1 changes nothing in this kernel.\n"
    ) in said
    assert shared.scons("livepatches=suse").startswith("scons: `livepatch' is up to date.\n")
    predicate = json.loads(
        (shared.directory / "build/fixtures/livepatch-all.provenance.json").read_text()
    )["predicate"]
    assert [reference["id"] for reference in predicate["references"]] == ["CVE-2024-2001"]
    (patched,) = predicate["patched"]
    assert [(f["old"], f["new"]) for f in patched["functions"]] == [
        ("cmdline_proc_show", "klpp_cmdline_proc_show")
    ]
    tables = (shared.directory / "build/fixtures/livepatch-all/tables.c").read_text()
    assert "\tklpbuild_enters_bsc1,\n\tklpbuild_enters_bsc2,\n" in tables
    log = (shared.directory / "build/fixtures/build.log").read_text()
    assert "-Werror" in next(line for line in log.splitlines() if "livepatch_bsc1.c" in line)


def test_a_condition_that_is_none(shared: Checkout, whole: Path) -> None:
    (whole / "bsc2/patched_funcs.csv").write_text("\nvmlinux f klpp_f IS_ENABLED(\n")
    said = shared.scons("livepatches=suse", status=2)
    assert "parts/bsc2/conditions.c: the preprocessor refuses it\n" in said
    assert "suse/all/bsc2/patched_funcs.csv:2:" in said


def test_what_is_wrong_with_a_condition_of_a_livepatch_elsewhere(
    shared: Checkout, whole: Path, tmp_path: Path
) -> None:
    """The list is the livepatch's own, wherever that is."""
    shutil.copytree(whole, tmp_path / "suse/all")
    path = tmp_path / "suse/all/bsc2/patched_funcs.csv"
    path.write_text("\nvmlinux f klpp_f IS_ENABLED(\n")
    said = shared.scons(f"livepatches={tmp_path}/suse", status=2)
    assert f"{path}:2:" in said
    assert "is not shown" not in said


def test_a_fix_for_another_configuration(shared: Checkout, whole: Path) -> None:
    text = '#error "klp-ccp: a preceeding branch should have been taken"\n'
    (whole / "bsc2/livepatch_bsc2.c").write_text(text)
    said = shared.scons("livepatches=suse", status=2)
    assert "suse/all/bsc2/livepatch_bsc2.c: is made for a kernel of another configuration\n" in said
    assert "  Make it again for this kernel.\n" in said


def test_a_fix_without_its_header(shared: Checkout, whole: Path) -> None:
    (whole / "bsc2/livepatch_bsc2.h").unlink()
    said = shared.scons("livepatches=suse", status=2)
    assert (
        "suse/all/bsc2: has no livepatch_bsc2.h\n"
        "  With a patched_funcs.csv it declares the functions, livepatch_bsc2_init and\n"
        "  livepatch_bsc2_cleanup.\n"
    ) in said


def test_a_fix_that_is_no_part(shared: Checkout, whole: Path) -> None:
    shutil.copytree(whole / "bsc2", shared.directory / "alone" / "bsc2")
    said = shared.scons("livepatches=alone", status=2)
    assert (
        "alone/bsc2: has a patched_funcs.csv, and is not a part of a livepatch\n"
        '  Put it into a directory whose livepatch.toml says parts = ["bsc2"].\n'
    ) in said
