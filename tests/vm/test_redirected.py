"""What ftrace tells of livepatched functions, and what a trial does not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.locate import locate
from klpbuild.vm.redirected import look_at, targets_of
from klpbuild.vm.result import GuestState, Livepatch, Status, StepResult
from klpbuild.vm.scenario import Modprobe, Planned, ReadRedirected, Rmmod, Step
from tests.kernel.machines import prepared_tree
from tests.objects import compile_c

ENABLED = (
    "f (1) R I     \ttramp: 0xffffffffc0201000 (klp_ftrace_handler+0x0/0x1a0)\n"
    "g [tun] (1) R I     \ttramp: 0xffffffffc0201000\n"
    "other (1)           \ttramp: 0xffffffffc0201000\n"
)


def state(*functions: str, **objects: bool) -> GuestState:
    found = (("vmlinux", True), *objects.items())
    return GuestState(0, (Livepatch("livepatch_x", True, False, found, functions),))


def step(
    what: Step, output: str = "", status: int = 0, shown: GuestState | None = None
) -> StepResult:
    return StepResult(Planned(what, fails=None), Status.PASSED, status, output, (), shown)


def test_a_livepatch_of_another_machine_is_not_booted(tmp_path: Path) -> None:
    kernel = locate(str(prepared_tree(tmp_path / "tree", "6.1.170-x")))
    module = compile_c(tmp_path, "int x;")
    assert targets_of(kernel, [module], ()) == []
    data = module.read_bytes()
    module.write_bytes(data[:18] + (183).to_bytes(2, "little") + data[20:])
    with pytest.raises(KlpError, match=r"livepatch\.o: is for aarch64, and the kernel is for x86"):
        targets_of(kernel, [module], ())


def test_functions_that_are_redirected() -> None:
    seen = look_at(
        [step(ReadRedirected(), ENABLED, shown=state("vmlinux/f,1", "tun/g,1", tun=True))], ()
    )
    assert seen.redirected == {"vmlinux": ("f",), "tun": ("g",)}
    assert seen.problems == seen.not_tried == ()


def test_a_function_that_is_not() -> None:
    shown = state("vmlinux/f,1", "vmlinux/other,1", "tun/f,1", tun=True)
    seen = look_at([step(ReadRedirected(), ENABLED, shown=shown)], ())
    assert seen.problems == (
        "other of vmlinux is not redirected",
        "f of tun is not redirected",
    )


def test_modules_that_cannot_be_loaded() -> None:
    shown = state("vmlinux/f,1", "e1000/h,1", e1000=False)
    steps = [
        step(Modprobe("e1000"), "insmod: can't insert 'e1000.ko': No such device\n", 1),
        step(ReadRedirected(), ENABLED, shown=shown),
        step(Rmmod("e1000"), "rmmod: in use\n", 1),
        step(Modprobe("e1000"), "", 1),
        step(ReadRedirected(), ENABLED, shown=shown),
    ]
    assert look_at(steps, ("e1000",)).not_tried == (
        "to load e1000 before the livepatch: insmod: can't insert 'e1000.ko': No such device",
        "to load e1000 after the livepatch, since it does not go: rmmod: in use",
        "to load e1000 after the livepatch",
        "h of e1000, which was not loaded",
    )


def test_a_module_that_is_loaded_after_the_livepatch_only() -> None:
    steps = [
        step(ReadRedirected(), "", shown=state("tun/g,1", tun=False)),
        step(ReadRedirected(), ENABLED, shown=state("tun/g,1", tun=True)),
    ]
    seen = look_at(steps, ())
    assert seen.redirected == {"tun": ("g",)}
    assert seen.not_tried == ()


def test_a_livepatch_that_stays() -> None:
    seen = look_at([step(ReadRedirected(), ENABLED, shown=state("tun/g,1", tun=True))], ("tun",))
    assert seen.not_tried == ("to load tun after the livepatch, which stays",)
