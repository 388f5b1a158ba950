"""Scenarios, and the shell lines that the guest gets of them."""

from __future__ import annotations

import subprocess
from importlib.resources import files
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from klpbuild.vm.result import GuestState, Livepatch
from klpbuild.vm.scenario import (
    Disable,
    FetchFile,
    Group,
    GuestFiles,
    Insmod,
    Modprobe,
    Planned,
    ReadFile,
    ReadRedirected,
    Rmmod,
    Shell,
    WaitDisabled,
    WaitEnabled,
    WriteFile,
    kernel_modules,
    load_and_unload,
    module_files,
    script,
)

FILES = GuestFiles(lambda path: f"/m/{path.name}", lambda name: ("/l/base.ko", f"/l/{name}.ko"))


def test_the_script_of_a_livepatch(tmp_path: Path) -> None:
    livepatch = tmp_path / "livepatch-x.ko"
    subprocess.run(["gcc", "-x", "c", "-c", "/dev/null", "-o", livepatch], check=True, cwd=tmp_path)
    group = load_and_unload(livepatch, ("ext4",))
    assert group.name == "livepatch_x"
    assert script((group,), FILES) == (
        "group\n"
        "step 0 usual pass load /l/base.ko /l/ext4.ko\n"
        "step 1 usual pass insert /m/livepatch-x.ko\n"
        "step 2 usual pass wait_enabled livepatch_x 60\n"
        "step 3 always pass disable_if_loaded livepatch_x\n"
        "step 4 always pass wait_disabled livepatch_x 60 0\n"
        "step 5 always pass remove_if_loaded livepatch_x\n"
        "end_group\n"
    )
    assert module_files((group, group)) == (livepatch,)
    assert kernel_modules((group,)) == ("ext4",)


def test_the_name_is_what_the_module_says(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text(
        'static const char n[] __attribute__((section(".modinfo"), used)) = "name=true_name";'
    )
    subprocess.run(["gcc", "-c", source, "-o", tmp_path / "x.ko"], check=True)
    assert load_and_unload(tmp_path / "x.ko").name == "true_name"


def test_every_step_calls_a_function_of_the_guest() -> None:
    guest = files("klpbuild.vm").joinpath("guest.sh").read_text()
    steps = [
        ReadFile("/a"),
        FetchFile("/a"),
        ReadRedirected(),
        WriteFile("/a", "b"),
        Insmod(Path("x.ko"), ("a=1",)),
        Rmmod("x"),
        Rmmod("x", if_loaded=True),
        Modprobe("m"),
        WaitEnabled("x"),
        Disable("x"),
        Disable("x", if_loaded=True),
        WaitDisabled("x"),
        Shell("true"),
    ]
    for step in steps:
        function, *_ = step.command(FILES)
        assert f"\n{function}() {{\n" in guest
        assert step.title


def test_expectations_and_numbers_through_groups() -> None:
    groups = (
        Group("a", (Planned(Shell("x"), fails=True), Planned(Shell("y"), fails=None))),
        Group("b", (Shell("z"),)),
    )
    assert script(groups, FILES).splitlines() == [
        "group",
        "step 0 usual fail shell x",
        "step 1 usual any shell y",
        "end_group",
        "group",
        "step 2 usual pass shell z",
        "end_group",
    ]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_reaches_the_guest_whole(text: str) -> None:
    steps = script((Group("g", (WriteFile("/f", text),)),), FILES)
    program = 'group() { :; }\nend_group() { :; }\nstep() { printf %s "$6"; }\n' + steps
    result = subprocess.run(["sh", "-c", program], capture_output=True, check=True)
    assert result.stdout == text.encode()


def test_the_guests_script_is_shell() -> None:
    guest = files("klpbuild.vm").joinpath("guest.sh").read_bytes()
    subprocess.run(["sh", "-n"], input=guest, check=True)


def test_the_state_that_sysfs_shows() -> None:
    state = GuestState.parse(
        "taint 45056\n"
        "livepatch a 1 0\nobject vmlinux 1\nfunction f,1\nfunction g,2\nobject ext4 0\n"
        "livepatch b 0 1\nobject vmlinux -\n"
    )
    assert state.taint_letters == "OEK"
    assert state.livepatches == (
        Livepatch("a", True, False, (("vmlinux", True), ("ext4", False)),
                  ("vmlinux/f,1", "vmlinux/g,2")),
        Livepatch("b", False, True, (("vmlinux", None),), ()),
    )  # fmt: skip
    assert state.livepatch("b") is state.livepatches[1]
    assert state.livepatch("c") is None
