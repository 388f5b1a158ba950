"""`klpbuild load`, `unload` and `status`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from klpbuild import cli
from klpbuild.running.status import (
    BlockingTask,
    LivepatchStatus,
    PatchedObject,
    State,
    parse_status,
)
from tests.running.machine import FakeMachine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    made = FakeMachine(tmp_path / "machine")
    monkeypatch.setenv("LIVEPATCH_ROOT", str(made.root))
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}:{os.environ['PATH']}")
    return made


def test_status_as_text(machine: FakeMachine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.add("livepatch_demo_1")
    assert cli.main(["status"]) == 0
    expected = "livepatch_demo_1: enabled\n  vmlinux: meminfo_proc_show,1\n"
    assert capfd.readouterr().out == expected


def test_status_as_json(machine: FakeMachine, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == []
    machine.add("livepatch_demo_1", transition=1)
    machine.add_task(41, "a (b) c", 0, "[<0>] f+0x1/0x2\n[<0>] g+0x3/0x4\n")
    machine.add_task(42, "other", 0)
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == [
        {
            "module": "livepatch_demo_1",
            "state": "being enabled",
            "objects": [{"name": "vmlinux", "loaded": True, "functions": ["meminfo_proc_show,1"]}],
            "blocked_by": [
                {"pid": 41, "name": "a (b) c", "stack": ["[<0>] f+0x1/0x2", "[<0>] g+0x3/0x4"]},
                {"pid": 42, "name": "other", "stack": []},
            ],
        }
    ]


def test_status_is_parsed() -> None:
    text = (
        "livepatch_b: being disabled\n"
        "  ext4 (not loaded): f,1 g,2\n"
        "  task 7 (kworker/0:1)\n"
        "    [<0>] worker_thread+0x1/0x2\n"
        "livepatch_a: disabled, module still loaded\n"
    )
    assert parse_status(text) == (
        LivepatchStatus(
            "livepatch_b",
            State.DISABLING,
            (PatchedObject("ext4", False, ("f,1", "g,2")),),
            (BlockingTask(7, "kworker/0:1", ("[<0>] worker_thread+0x1/0x2",)),),
        ),
        LivepatchStatus("livepatch_a", State.LEFT),
    )
    assert parse_status("no livepatch is loaded\n") == ()


def test_status_of_what_is_not_loaded(
    machine: FakeMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "livepatch-demo"]) == 1
    assert capfd.readouterr().err == "klpbuild: error: livepatch_demo is not loaded\n"


def test_exit_statuses_come_through(
    machine: FakeMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["load", "--timeout", "0", "livepatch-demo-1"]) == 3
    assert "has not ended after 0 s" in capfd.readouterr().err
    assert cli.main(["unload", "nothing"]) == 1


def test_a_file_needs_no_slash(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.root)
    assert cli.main(["load", "--timeout", "0", "livepatch-demo-1.ko"]) == 3
    assert machine.log == [f"insmod {machine.root}/livepatch-demo-1.ko"]


def test_a_timeout_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["load", "--timeout", "-1", "x"])
    assert ended.value.code == 2
    assert "argument --timeout: '-1' is not a number of seconds" in capsys.readouterr().err


def test_status_as_metrics(machine: FakeMachine, tmp_path: Path) -> None:
    machine.add("livepatch_demo_1", transition=1)
    machine.add_task(41, "cat", 0)
    output = tmp_path / "livepatch.prom"
    assert cli.main(["status", "--metrics", "-o", str(output)]) == 0
    lines = output.read_text().splitlines()
    assert "# TYPE livepatch_enabled gauge" in lines
    assert [line for line in lines if line[0] != "#"] == [
        'livepatch_enabled{module="livepatch_demo_1"} 1',
        'livepatch_transition{module="livepatch_demo_1"} 1',
        'livepatch_blocking_tasks{module="livepatch_demo_1"} 1',
        'livepatch_functions{module="livepatch_demo_1"} 1',
    ]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module without tables, for the kernel of the fixtures."""
    source, module = tmp_path / "demo.c", tmp_path / "livepatch-demo-1.ko"
    tag = '__attribute__((section(".modinfo"), used)) = "vermagic=6.1.0-fixtures SMP"'
    source.write_text(f"static const char vermagic[] {tag};\n")
    subprocess.run(["gcc", "-c", "-o", module, source], check=True)
    return module


def test_load_looks_before_it_leaps(
    machine: FakeMachine, module: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["load", "--dry-run", str(module)]) == 1
    said = capfd.readouterr().err
    assert said.startswith(f"klpbuild: error: {module}: is for Linux 6.1.0-fixtures, and ")
    assert cli.main(["load", str(module)]) == 1
    assert machine.log == []


def test_a_dry_run_as_json(
    machine: FakeMachine,
    module: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cli.main(["load", "--dry-run", "--json", str(module)]) == 1
    told = json.loads(capfd.readouterr().out)
    assert (told["file"], told["module"]) == (str(module), "livepatch_demo_1")
    (obstacle,) = [each for each in told["obstacles"] if each["stops"]]
    assert obstacle["what"].startswith("is for Linux 6.1.0-fixtures, and ")
    assert set(obstacle) == {"what", "why", "hint", "stops"}
    monkeypatch.setattr("platform.release", lambda: "6.1.0-fixtures")
    assert cli.main(["load", "--dry-run", "--json", str(module)]) == 0
    assert not any(each["stops"] for each in json.loads(capfd.readouterr().out)["obstacles"])
    assert cli.main(["load", "--json", str(module)]) == 1
    assert capfd.readouterr().err == (
        "klpbuild: error: --json: a load is not told as JSON\n  Add --dry-run.\n"
    )
    assert machine.log == []


def test_a_dry_run_loads_nothing(
    machine: FakeMachine,
    module: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-fixtures")
    assert cli.main(["load", "--dry-run", str(module)]) == 0
    said = capfd.readouterr()
    assert said.out == "livepatch_demo_1: nothing stops it from being loaded\n"
    assert machine.log == []
