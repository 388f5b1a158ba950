"""What klpbuild says of a guest that lives, dies, hangs or vanishes: QEMU is played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest, memory_for
from klpbuild.vm.result import End, Status
from klpbuild.vm.scenario import Group, Planned, Shell
from tests.vm.conftest import RELEASE, PlayQemu

READY = f"say('ready', text='{RELEASE}')\n"


def group(name: str, *lines: str) -> Group:
    return Group(name, tuple(Shell(line) for line in lines))


def step(number: int, status: int = 0, output: str = "") -> str:
    return f"say('begin', {number})\nsay('end', {number}, {status}, {output!r})\n"


def test_a_guest_that_does_all(kernel: Kernel, play_qemu: PlayQemu, tmp_path: Path) -> None:
    play_qemu(
        READY
        + "log('early')\nsay('begin', 0)\nlog('livepatch: hello')\n"
        + "say('state', 0, 0, 'taint 32768\\nlivepatch a 1 0\\n')\nsay('end', 0, 0, 'out')\n"
        + step(1, 1, "no")
        + "say('skip', 2)\nsay('done')\n"
    )
    result = Guest(kernel, tmp_path / "out").boot([group("a", "x", "y", "z")])
    assert result.end is End.DONE
    (of_group,) = result.groups
    assert [s.status for s in of_group.steps] == [Status.PASSED, Status.FAILED, Status.SKIPPED]
    assert of_group.steps[0].output == "out"
    assert [line.text for line in of_group.steps[0].log] == ["livepatch: hello"]
    assert of_group.steps[0].state is not None
    assert of_group.steps[0].state.taint_letters == "K"
    assert [line.text for line in result.boot_log] == ["early"]
    assert not of_group.passed
    assert of_group.problem == "$ y: no"
    assert of_group.end is None
    assert (tmp_path / "out" / "console-1.log").exists()
    assert not list((tmp_path / "out").glob("*.cpio"))


@pytest.mark.parametrize(
    ("death", "end", "problem"),
    [
        (
            "log('Kernel panic - not syncing: sysrq')",
            End.PANIC,
            "$ y: the guest's kernel panicked: Kernel panic - not syncing: sysrq",
        ),
        (
            "log('BUG: kernel NULL pointer dereference, address: 8', 'Oops: 2',"
            " '---[ end trace 0 ]---', 'Kernel panic - not syncing: Fatal exception')",
            End.OOPS,
            "$ y: the guest's kernel oopsed: BUG: kernel NULL pointer dereference, address: 8",
        ),
        (
            "log('watchdog: BUG: soft lockup - CPU#1 stuck')\ntime.sleep(100)",
            End.TIME_LIMIT,
            "$ y: the guest said nothing for 1 s and was ended\n"
            "watchdog: BUG: soft lockup - CPU#1 stuck",
        ),
        (
            "sys.stderr.write('qemu: out of memory\\n')\nsys.exit(9)",
            End.VANISHED,
            "$ y: QEMU vanished with exit status 9\nqemu: out of memory",
        ),
    ],
)
def test_a_guest_that_dies(
    kernel: Kernel, play_qemu: PlayQemu, death: str, end: End, problem: str
) -> None:
    play_qemu(READY + step(0) + "say('begin', 1)\n" + death)
    guest = Guest(kernel, quiet_limit=1)
    result = guest.boot([group("a", "x", "y", "z"), group("b", "w")])
    assert result.end is end
    (of_group,) = result.groups
    assert [s.status for s in of_group.steps] == [Status.PASSED, Status.LOST, Status.NOT_RUN]
    assert of_group.problem == problem
    assert of_group.end is end


def test_another_boot_goes_on_after_a_death(
    kernel: Kernel, play_qemu: PlayQemu, tmp_path: Path
) -> None:
    mark = tmp_path / "booted"
    play_qemu(
        READY
        + f"""
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    say("begin", 0)
    say("end", 0)
    say("begin", 1)
    log("Kernel panic - x")
else:
    say("begin", 0)
    say("end", 0, 0, "again")
    say("done")
"""
    )
    seen: list[str] = []
    started: list[str] = []
    results = Guest(kernel, tmp_path / "out").run(
        [group("a", "x"), group("b", "y"), group("c", "z")],
        lambda result: seen.append(result.group.name),
        lambda group: started.append(group.name),
    )
    assert seen == started == ["a", "b", "c"]
    assert [result.passed for result in results] == [True, False, True]
    assert [result.end for result in results] == [None, End.PANIC, None]
    assert results[2].steps[0].output == "again"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "console-1.log",
        "console-2.log",
    ]


def test_a_group_that_leaves_a_livepatch_ends_its_boot(kernel: Kernel, play_qemu: PlayQemu) -> None:
    play_qemu(READY + step(0) + "say('unclean')")
    result = Guest(kernel).boot([group("a", "x"), group("b", "y")])
    assert result.end is End.UNCLEAN
    assert [of_group.group.name for of_group in result.groups] == ["a"]


def test_expectations(kernel: Kernel, play_qemu: PlayQemu) -> None:
    play_qemu(
        READY
        + step(0, 1, "refused")
        + step(1, 0, "fine")
        + step(2, 0, "fine")
        + "say('begin', 3)\nlog('Unknown symbol x')\nsay('end', 3, 2)\n"
        + "say('begin', 4)\nlog('WARNING: at x')\nsay('end', 4)\n"
        + step(5, 7)
        + "say('begin', 6)\nlog('WARNING: at x')\nsay('end', 6)\n"
        + "say('done')"
    )
    steps = (
        Planned(Shell("a"), fails=True),
        Planned(Shell("b"), fails=True),
        Planned(Shell("c"), output=("fine", "coarse")),
        Planned(Shell("d"), fails=True, log=("Unknown symbol x", "Unknown symbol y")),
        Shell("e"),
        Planned(Shell("f"), fails=None),
        Planned(Shell("g"), warns=True),
    )
    (result,) = Guest(kernel).boot([Group("g", steps)]).groups
    assert [each.problem for each in result.steps] == [
        "",
        "$ b: succeeded, and should have failed",
        "$ c: the output lacks 'coarse'",
        "$ d: the kernel's log lacks 'Unknown symbol y'",
        "$ e: the kernel reports: WARNING: at x",
        "",
        "",
    ]


def test_a_kernel_that_does_not_boot(kernel: Kernel, play_qemu: PlayQemu) -> None:
    play_qemu("log('Kernel panic - not syncing: no init', 'CPU: 0')")
    with pytest.raises(KlpError) as caught:
        Guest(kernel).boot([group("a", "x")])
    lines = str(caught.value).splitlines()
    assert lines[:4] == [
        f"{kernel.image}: does not boot: the guest's kernel panicked: "
        "Kernel panic - not syncing: no init",
        "  [    1.000000] Kernel panic - not syncing: no init",
        "  [    1.000000] CPU: 0",
        "  QEMU was run with:",
    ]
    assert "-accel tcg" in lines[4]


def test_another_release_than_the_headers(kernel: Kernel, play_qemu: PlayQemu) -> None:
    play_qemu("say('ready', text='5.10.0')\nsay('done')")
    with pytest.raises(KlpError) as caught:
        Guest(kernel).boot([group("a", "x")])
    assert str(caught.value) == (
        f"{kernel.image}: boots as release 5.10.0\n"
        f"  The kernel's headers are of {RELEASE}.\n"
        "  Fetch the image and the headers of the same release."
    )


def test_a_kernel_without_image(kernel: Kernel) -> None:
    with pytest.raises(KlpError) as caught:
        Guest(replace(kernel, image=None)).boot([group("a", "x")])
    assert str(caught.value) == (
        f"{RELEASE}: has no bootable image\n  Name it with --image, or build it."
    )


def test_the_memory_holds_the_archive_twice() -> None:
    assert memory_for(2 << 20) == 1024
    assert memory_for(500 << 20) == 2012
