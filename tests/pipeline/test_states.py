"""Versions of a livepatch that take over from each other what they left behind."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Group, Insmod, Planned, ReadFile, Rmmod, WaitEnabled, unload
from tests.pipeline.livepatches import build_all, written

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

TOML = """\
{state}
[[object]]
name = "vmlinux"
functions = [{{ old = "cmdline_proc_show", new = "livepatch_cmdline" }}]
callbacks = {{ pre_patch = "enters", post_unpatch = "leaves" }}
"""
#: Counts readings in a shadow variable.
SOURCE = """\
#include <linux/livepatch.h>
#include <linux/seq_file.h>
extern char *saved_command_line;
int livepatch_cmdline(struct seq_file *m, void *v)
{{
	int *readings = klp_shadow_get_or_alloc(saved_command_line, 1, sizeof(*readings), GFP_KERNEL,
						NULL, NULL);

	seq_printf(m, "readings: %d\\n", readings ? ++*readings : 0);
	return 0;
}}
int enters(struct klp_object *object)
{{
	return {error};
}}
void leaves(struct klp_object *object)
{{
	klp_shadow_free_all(1, NULL);
}}
"""
FILE, LINE = "kernel/sysctl.c", "int cap_last_cap = CAP_LAST_CAP;"


def built(
    kernel: Kernel,
    directory: Path,
    version: int,
    added: int,
    state: str | None = None,
    error: str = "0",
) -> Path:
    """A version whose patch adds to a variable; with a part that makes shadow variables."""
    whole = directory / f"v{version}" / "all"
    (whole / "patches").mkdir(parents=True)
    assert kernel.source is not None
    old = (kernel.source / FILE).read_text()
    new = old.replace(LINE, LINE.replace(";", f" + {added};"))
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    patch = "".join(difflib.unified_diff(before, after, f"a/{FILE}", f"b/{FILE}"))
    (whole / "patches" / "caps.patch").write_text(patch)
    (whole / "patches" / "livepatch.toml").write_text('accept_data = ["cap_last_cap"]\n')
    parts = '["patches"]'
    if state is not None:
        (whole / "counter").mkdir()
        (whole / "counter" / "livepatch.toml").write_text(TOML.format(state=state))
        (whole / "counter" / "main.c").write_text(SOURCE.format(error=error))
        parts = '["patches", "counter"]'
    (whole / "livepatch.toml").write_text(f'version = "{version}"\nparts = {parts}\n')
    return build_all(kernel, whole.parent, directory)


def test_one_takes_over_from_another(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    kernel = debian_source_kernel
    one = built(kernel, tmp_path, 1, 7)
    two = built(kernel, tmp_path, 2, 7, "")
    three = built(kernel, tmp_path, 3, 9, "state_version = 2")
    four = built(kernel, tmp_path, 4, 7, "state_version = 2")
    five = built(kernel, tmp_path, 5, 11, "state_version = 2", "-EBUSY")
    caps, count = ReadFile("/proc/sys/kernel/cap_last_cap"), ReadFile("/proc/cmdline")
    refused = ("is not compatible with the already installed livepatches",)
    steps = [
        *(Insmod(one), WaitEnabled("livepatch_all_1"), Planned(caps, output=("47",))),
        *(Insmod(two), WaitEnabled("livepatch_all_2"), Planned(caps, output=("47",))),
        *(Planned(count, output=("readings: 1",)), Rmmod("livepatch_all_1")),
        *(Insmod(three), WaitEnabled("livepatch_all_3"), Planned(caps, output=("49",))),
        *(Planned(count, output=("readings: 2",)), Rmmod("livepatch_all_2")),
        # Versions that lack a state, or have an older one, cannot come back.
        Planned(Insmod(one), fails=True, log=refused),
        Planned(Insmod(two), fails=True, log=refused),
        *(Planned(caps, output=("49",)), Planned(count, output=("readings: 3",))),
        # One that fails leaves what it found.
        *(Planned(Insmod(five), fails=True, warns=True), Planned(caps, output=("49",))),
        *(Insmod(four), WaitEnabled("livepatch_all_4"), Planned(caps, output=("47",))),
        *(Planned(count, output=("readings: 4",)), Rmmod("livepatch_all_3")),
        *(*unload(four, "livepatch_all_4"), Planned(caps, output=("40",))),
    ]
    (result,) = Guest(kernel).run([Group("versions", tuple(steps))])
    assert result.passed, result.problem


SET = """\
#include <linux/livepatch.h>
extern int sysctl_overcommit_ratio;
void set(struct klp_object *object)
{
	sysctl_overcommit_ratio = 60;
}
"""
OPS = "static const struct seq_operations devinfo_ops"
NEXT = """\
static void *other_next(struct seq_file *f, void *v, loff_t *pos)
{
	return devinfo_next(f, v, pos);
}

"""
SHOW = """\
static int other_show(struct seq_file *f, void *v)
{
	seq_puts(f, "other");
	return devinfo_show(f, v);
}

"""


def accepting(
    kernel: Kernel,
    directory: Path,
    version: int,
    variable: str,
    path: str,
    *changes: tuple[str, str],
) -> Path:
    """A version of one patch that changes a variable's content."""
    whole = directory / f"v{version}" / "all"
    whole.mkdir(parents=True)
    written(kernel, {path: dict(changes)}, whole)
    text = f'version = "{version}"\naccept_data = ["{variable}"]\n'
    (whole / "livepatch.toml").write_text(text)
    return build_all(kernel, whole.parent, directory)


def test_what_somebody_else_has_set_stays(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    """The value is the livepatch's own already, and the kernel's does not come back."""
    kernel = debian_source_kernel
    (tmp_path / "other" / "all").mkdir(parents=True)
    toml = '[[object]]\nname = "vmlinux"\ncallbacks = { post_patch = "set" }\n'
    (tmp_path / "other" / "all" / "livepatch.toml").write_text(toml)
    (tmp_path / "other" / "all" / "set.c").write_text(SET)
    other = build_all(kernel, tmp_path / "other", tmp_path)
    change = (
        "sysctl_overcommit_ratio __read_mostly = 50",
        "sysctl_overcommit_ratio __read_mostly = 60",
    )
    one = accepting(kernel, tmp_path, 1, "sysctl_overcommit_ratio", "mm/util.c", change)
    ratio = Planned(ReadFile("/proc/sys/vm/overcommit_ratio"), output=("60",))
    steps = [
        *(Insmod(other), WaitEnabled("livepatch_all"), ratio),
        *(Insmod(one), WaitEnabled("livepatch_all_1"), ratio),
        *(*unload(one, "livepatch_all_1"), ratio),
    ]
    (result,) = Guest(kernel).run([Group("values", tuple(steps))])
    assert result.passed, result.problem


def test_no_version_leaves_a_word_of_another_behind(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = debian_source_kernel
    less = [(OPS, SHOW + OPS), (".show  = devinfo", ".show  = other")]
    more = [*less, (f"\n{OPS}", f"\n{NEXT}{OPS}"), (".next  = devinfo", ".next  = other")]
    modules = [
        accepting(kernel, tmp_path, version, "devinfo_ops", "fs/proc/devices.c", *changes)
        for version, changes in ((1, more), (2, less), (3, more))
    ]
    refused = "devinfo_ops+0x10/0x20 is written by the livepatch before alone: disable that first"
    devices = Planned(ReadFile("/proc/devices"), output=("other  1 mem",))
    steps = [
        *(Insmod(modules[0]), WaitEnabled("livepatch_all_1"), devices),
        *(Planned(Insmod(modules[1]), fails=True, log=(refused,), warns=True), devices),
        *(Insmod(modules[2]), WaitEnabled("livepatch_all_3"), devices),
    ]
    (result,) = Guest(kernel).run([Group("words", tuple(steps))])
    assert result.passed, result.problem
