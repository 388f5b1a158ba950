"""The verdict on a livepatch that was tried, and how it is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.vm.log import LogLine
from klpbuild.vm.result import End, GroupResult, GuestState, Status, StepResult
from klpbuild.vm.scenario import ReadFile
from klpbuild.vm.transcript import as_json, transcript
from klpbuild.vm.trial import Trial, Wanted, judge_trial

BEFORE = "MemTotal:  996384 kB\nMemFree:  955868 kB\n"
PATCHED = "MemTotal:  996384 kB\nMemFree:  955000 kB\nPatched: yes\n"
AFTER = "MemTotal:  996384 kB\nMemFree:    5000 kB\n"


@pytest.fixture
def livepatch(tmp_path: Path) -> Path:
    path = tmp_path / "livepatch-x.ko"
    subprocess.run(["gcc", "-x", "c", "-c", "/dev/null", "-o", path], check=True)
    return path


def tried(wanted: Wanted, shown: tuple[str, str, str], end: End | None = None) -> Trial:
    """A trial in which every step passed and the watched file showed these."""
    contents = iter(shown)
    group = wanted.group()
    steps = tuple(
        StepResult(
            planned,
            Status.PASSED,
            0,
            next(contents) if isinstance(planned.step, ReadFile) else "",
            (LogLine(6, 1.5, "livepatch: hello"),) if "insmod" in planned.step.title else (),
            GuestState(45056, ()),
        )
        for planned in group.planned
    )
    return judge_trial(wanted, GroupResult(group, steps, end))


def test_a_trial_as_wanted(livepatch: Path) -> None:
    wanted = Wanted((livepatch,), ("/proc/meminfo",), expect=("Patched: yes",), must_change=True)
    trial = tried(wanted, (BEFORE, PATCHED, AFTER))
    assert trial.problems == ()
    assert list(transcript(trial)) == [
        "      ok  read /proc/meminfo",
        "          | MemTotal:  996384 kB",
        "          | MemFree:  955868 kB",
        "      ok  insmod livepatch-x.ko",
        "          [    1.500000] livepatch: hello",
        "      ok  wait for the transition to livepatch_x",
        "      ok  read which functions are redirected",
        "      ok  read /proc/meminfo",
        "          + Patched: yes",
        "      ok  disable livepatch_x",
        "      ok  wait for the transition from livepatch_x",
        "      ok  rmmod livepatch_x",
        "      ok  read /proc/meminfo",
        "          = as before, but for numbers that change by themselves",
        "          the kernel is tainted: OEK",
        "",
        "livepatch_x: loaded, patched, disabled and unloaded.",
    ]
    shown = json.loads(json.dumps(as_json(trial)))
    assert shown["passed"] is True
    assert shown["files"][0]["changed"] is True
    assert shown["steps"][1]["step"] == "insmod livepatch-x.ko"


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        (
            (BEFORE, AFTER, AFTER),
            "no watched file shows 'Patched: yes' with the livepatch loaded",
        ),
        (
            (PATCHED, PATCHED, AFTER),
            "/proc/meminfo shows 'Patched: yes' already before the livepatch",
        ),
        (
            (BEFORE, PATCHED, PATCHED),
            "/proc/meminfo still shows 'Patched: yes' without the livepatch",
        ),
    ],
)
def test_a_text_that_must_show(livepatch: Path, shown: tuple[str, str, str], problem: str) -> None:
    wanted = Wanted((livepatch,), ("/proc/meminfo",), expect=("Patched: yes",))
    trial = tried(wanted, shown)
    assert trial.problems == (problem,)
    assert list(transcript(trial))[-1] == f"FAILED: {problem}"


def test_a_file_that_must_change(livepatch: Path) -> None:
    wanted = Wanted((livepatch,), ("/proc/meminfo",), must_change=True)
    assert tried(wanted, (BEFORE, AFTER, AFTER)).problems == (
        "/proc/meminfo is unchanged with the livepatch loaded",
    )
    assert tried(wanted, (BEFORE, PATCHED, PATCHED)).problems == (
        "/proc/meminfo is not as before without the livepatch",
    )


def test_a_livepatch_that_stays(livepatch: Path) -> None:
    trial = tried(Wanted((livepatch,)), ("", "", ""), End.UNCLEAN)
    assert trial.problems == ("a livepatch is still loaded at the end",)


def test_two_are_unloaded_in_reverse(livepatch: Path, tmp_path: Path) -> None:
    second = tmp_path / "livepatch-y.ko"
    second.write_bytes(livepatch.read_bytes())
    wanted = Wanted((livepatch, second), modprobe=("a",), late=("b",))
    titles = [planned.step.title for planned in wanted.group().planned]
    assert titles == [
        "modprobe a",
        "insmod livepatch-x.ko",
        "wait for the transition to livepatch_x",
        "insmod livepatch-y.ko",
        "wait for the transition to livepatch_y",
        "modprobe b",
        "read which functions are redirected",
        "disable livepatch_y",
        "wait for the transition from livepatch_y",
        "rmmod livepatch_y",
        "disable livepatch_x",
        "wait for the transition from livepatch_x",
        "rmmod livepatch_x",
    ]


def test_what_is_patched_is_loaded_before_and_after(livepatch: Path) -> None:
    titles = [p.step.title for p in Wanted((livepatch,), targets=("a", "b")).group().planned]
    cycle = ["insmod livepatch-x.ko", "wait for the transition to livepatch_x"]
    read = "read which functions are redirected"
    gone = ["disable livepatch_x", "wait for the transition from livepatch_x", "rmmod livepatch_x"]
    first = ["modprobe a", "modprobe b", *cycle, read, *gone]
    assert titles == [*first, "rmmod b", "rmmod a", *cycle, "modprobe a", "modprobe b", read, *gone]


def test_a_change_needs_a_file(livepatch: Path) -> None:
    with pytest.raises(KlpError) as caught:
        Wanted((livepatch,), must_change=True).group()
    assert str(caught.value) == (
        "no file is watched, so nothing can show a change\n"
        "  Name one, for example --watch /proc/meminfo."
    )


def test_no_livepatch() -> None:
    with pytest.raises(KlpError) as caught:
        Wanted(()).group()
    assert str(caught.value) == "no livepatch to boot with\n  Name a .ko file."


def test_a_file_that_is_no_module(tmp_path: Path) -> None:
    text = tmp_path / "livepatch.ko"
    text.write_text("not a module, but long enough for the header of an ELF file, which is 64 B")
    with pytest.raises(KlpError, match="is not an ELF file"):
        Wanted((text,)).group()
