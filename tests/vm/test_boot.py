"""A real kernel in a real QEMU: what it says of livepatches built with its own headers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.log import FaultKind
from klpbuild.vm.probe import learn
from klpbuild.vm.result import End, GroupResult, Livepatch, Status
from klpbuild.vm.scenario import (
    Disable,
    Group,
    Insmod,
    Modprobe,
    Planned,
    Rmmod,
    Shell,
    WaitDisabled,
    WaitEnabled,
    load_and_unload,
)
from klpbuild.vm.transcript import transcript
from klpbuild.vm.trial import Wanted, boot_livepatch

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

_SOURCE = """
#include <linux/module.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/seq_file.h>
extern char *saved_command_line;
static int klp_new(struct seq_file *m, void *v) { %(body)s return 0; }
static struct klp_func funcs[] = { { .old_name = "%(old)s", .new_func = klp_new }, { } };
static struct klp_object objects[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects, .replace = %(replace)s };
static int __init klp_init(void) { %(init)s return klp_enable_patch(&patch); }
static void __exit klp_exit(void) { }
module_init(klp_init);
module_exit(klp_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""

#: Name to what differs; the rest is a livepatch of /proc/meminfo.
_LIVEPATCHES = {
    "one": {"body": 'seq_puts(m, "Patched: one\\n");'},
    "two": {"body": 'seq_puts(m, "Patched: two\\n");', "replace": "true"},
    "undefined": {"body": "seq_puts(m, saved_command_line);"},
    "missing": {"old": "no_such_function"},
    "warns": {"init": 'WARN(1, "made to warn\\n");'},
    "stalls": {"old": "n_tty_read"},
    "oopses": {"init": "*(volatile int *)8 = 1;"},
    "hangs": {"init": "for (;;) cpu_relax();"},
}


@pytest.fixture(scope="module")
def livepatches(debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of livepatches built by the kernel's own kbuild, nothing converted."""
    directory = tmp_path_factory.mktemp("livepatches")
    for name, differs in _LIVEPATCHES.items():
        usual = {"old": "meminfo_proc_show", "body": "", "init": "", "replace": "false"}
        (directory / f"livepatch-{name}.c").write_text(_SOURCE % (usual | differs))
    objects = " ".join(f"livepatch-{name}.o" for name in _LIVEPATCHES)
    (directory / "Makefile").write_text(f"obj-m := {objects}\n")
    command = ["make", "-C", str(debian_kernel.build), f"M={directory}", "modules"]
    subprocess.run([*command, "KBUILD_MODPOST_WARN=1"], check=True, capture_output=True)
    return directory


def test_a_livepatch_changes_a_file_and_goes(debian_kernel: Kernel, livepatches: Path) -> None:
    trial = boot_livepatch(
        debian_kernel,
        Wanted(
            [livepatches / "livepatch-one.ko"],
            watch=["/proc/meminfo"],
            expect=["Patched: one"],
            must_change=True,
        ),
    )
    assert trial.problems == ()
    (seen,) = trial.files
    assert (seen.before or "").startswith("MemTotal:")
    assert seen.patched == "Patched: one\n"
    assert (seen.after or "").startswith("MemTotal:")
    text = "\n".join(transcript(trial))
    for line in (
        "livepatch: enabling patch 'livepatch_one'",
        "livepatch: 'livepatch_one': patching complete",
        "livepatch: 'livepatch_one': unpatching complete",
        "+ Patched: one",
        "the kernel is tainted: OEK",
    ):
        assert line in text
    enabled = trial.result.steps[2].state
    assert enabled is not None
    patched = True if debian_kernel.version >= (6, 1, 0) else None
    assert enabled.livepatches == (
        Livepatch(
            "livepatch_one",
            True,
            False,
            (("vmlinux", patched),),
            ("vmlinux/meminfo_proc_show,1",),
        ),
    )
    last = trial.result.steps[-1].state
    assert last is not None
    assert last.livepatches == ()


def test_a_livepatch_replaces_another(debian_kernel: Kernel, livepatches: Path) -> None:
    trial = boot_livepatch(
        debian_kernel,
        Wanted(
            [livepatches / "livepatch-one.ko", livepatches / "livepatch-two.ko"],
            watch=["/proc/meminfo"],
            modprobe=["btrfs"],
            late=["nf_tables"],
            expect=["Patched: two"],
        ),
    )
    assert trial.problems == ()
    states = {step.title: step.state for step in trial.result.steps}
    waited = states["wait for the transition to livepatch_two"]
    assert waited is not None
    assert [livepatch.name for livepatch in waited.livepatches] == ["livepatch_two"]


def test_a_livepatch_that_changes_nothing_seen(debian_kernel: Kernel, livepatches: Path) -> None:
    trial = boot_livepatch(
        debian_kernel,
        Wanted(
            [livepatches / "livepatch-one.ko"],
            watch=["/proc/version"],
            must_change=True,
        ),
    )
    assert trial.problems == ("/proc/version is unchanged with the livepatch loaded",)


def test_the_command(
    debian_kernel: Kernel, livepatches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = str(livepatches / "livepatch-undefined.ko")
    words = ["boot", module, "--kernel", debian_kernel.release, "--watch", "/proc/meminfo"]
    assert main([*words, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["passed"] is False
    (problem,) = shown["problems"]
    assert "Unknown symbol saved_command_line (err -2)" in problem
    statuses = {step["step"]: step["status"] for step in shown["steps"]}
    assert statuses["insmod livepatch-undefined.ko"] == "failed"
    assert statuses["wait for the transition to livepatch_undefined"] == "skipped"
    assert main(["boot", "gone.ko", "--kernel", debian_kernel.release]) == 1
    assert capsys.readouterr().err == (
        "klpbuild: error: gone.ko: cannot be read: No such file or directory\n"
    )


def test_one_boot_after_another(debian_kernel: Kernel, livepatches: Path) -> None:
    def ko(name: str) -> Path:
        return livepatches / f"livepatch-{name}.ko"

    stays = Group("stays", (Insmod(ko("one")), WaitEnabled("livepatch_one")))
    warns = load_and_unload(ko("warns"))
    groups = [
        load_and_unload(ko("one"), ("nf_tables",)),
        load_and_unload(ko("undefined")),
        load_and_unload(ko("missing")),
        warns,
        stays,
        load_and_unload(ko("oopses")),
        load_and_unload(ko("two")),
    ]
    results = Guest(debian_kernel).run(groups)
    assert [result.group for result in results] == groups
    good, undefined, missing, warned, stayed, oopsed, last = results
    assert good.passed
    assert last.passed
    check_refused(undefined, "livepatch_undefined: Unknown symbol saved_command_line (err -2)")
    check_refused(missing, "livepatch: symbol 'no_such_function' not found in symbol table")
    assert not warned.passed
    assert "made to warn" in warned.problem
    assert [fault.kind for fault in warned.faults] == [FaultKind.WARNING]
    assert [step.status for step in warned.steps].count(Status.FAILED) == 1
    assert stayed.end is End.UNCLEAN
    assert stayed.passed
    assert oopsed.end is End.OOPS
    assert "the guest's kernel oopsed: BUG: kernel NULL pointer dereference" in oopsed.problem
    assert oopsed.steps[0].status is Status.LOST
    assert any("RIP: 0010:klp_init" in line.text for line in oopsed.steps[0].log)


def test_a_livepatch_that_hangs(debian_kernel: Kernel, livepatches: Path) -> None:
    group = Group("hangs", (Insmod(livepatches / "livepatch-hangs.ko"),))
    (result,) = Guest(debian_kernel, quiet_limit=30).run([group])
    assert result.end is End.TIME_LIMIT
    assert result.problem.startswith(
        "insmod livepatch-hangs.ko: the guest said nothing for 30 s and was ended"
    )


def check_refused(result: GroupResult, line: str) -> None:
    """The kernel refused a module, once, for one reason."""
    assert result.end is None
    assert result.steps[0].status is Status.FAILED
    assert [each.text for each in result.steps[0].log].count(line) == 1
    assert line in result.problem


def test_a_transition_that_stalls(debian_kernel: Kernel, livepatches: Path) -> None:
    name = "livepatch_stalls"
    group = Group(
        "stalls",
        (
            Shell("cat /dev/ttyS0 >/dev/null & sleep 1"),
            Insmod(livepatches / "livepatch-stalls.ko"),
            WaitEnabled(name, 3),
            Modprobe("nf_tables"),
            Planned(Disable(name), always=True),
            Planned(WaitDisabled(name), always=True),
            Planned(Rmmod(name), always=True),
        ),
    )
    (result,) = Guest(debian_kernel).run([group])
    statuses = [step.status for step in result.steps]
    assert statuses == [
        Status.PASSED,
        Status.PASSED,
        Status.FAILED,
        Status.SKIPPED,
        Status.PASSED,
        Status.PASSED,
        Status.PASSED,
    ]
    waited = result.steps[2]
    assert f"the transition to livepatch {name} has not ended after 3 s" in waited.output
    assert "(cat) has not switched:" in waited.output
    assert "n_tty_read" in waited.output
    assert waited.state is not None
    assert [livepatch.transition for livepatch in waited.state.livepatches] == [True]


def test_the_kernels_own_word(
    debian_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = replace(debian_kernel, cache=tmp_path / "learned")
    learned = learn(kernel)
    lines = learned.kallsyms.read_text().splitlines()
    addresses = {name: int(address, 16) for address, _, name in (line.split() for line in lines)}
    assert addresses["_text"] == 0xFFFFFFFF81000000
    assert addresses["meminfo_proc_show"] > addresses["_text"]
    assert len(lines) > 50_000
    assert "[" not in learned.kallsyms.read_text()
    functions = learned.filter_functions.read_text().splitlines()
    assert len(functions) > 20_000
    assert "meminfo_proc_show" in functions
    assert "native_write_msr" not in functions
    assert set(functions) <= addresses.keys()
    monkeypatch.setenv("PATH", "")  # the second time nothing is booted
    assert learn(kernel) == learned
