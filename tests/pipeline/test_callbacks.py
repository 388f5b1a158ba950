"""The callbacks of a livepatch that patches make are functions which these add."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.extract.result import Extraction
from klpbuild.module.livepatch import PatchedObject
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.pair import ObjectPair
from klpbuild.pipeline.callbacks import check_callbacks, without_idle
from tests.extract.pairs import Pair

SOURCE = "int state;\nint work(int n) { return n + state; }\n"
NEW = """
void raise_it(void *object) { state = 9; }
int not_code = 3;
static void hidden(void *object) { state = 8; }
__init void early(void *object) { state = 7; }
"""


def changed(directory: Path, owner: str, changes: dict[str, str]) -> tuple[ObjectPair, Extraction]:
    directory.mkdir()
    extraction = Pair(directory, SOURCE, changes).extract(in_module=owner != "vmlinux")
    path, source = directory / "code.o", f"drivers/{owner}.c"
    command = CompileCommand("code.o", source, ("gcc",), ())
    return ObjectPair(owner, source, "code.o", path, path, path, command), extraction


@pytest.fixture
def extractions(tmp_path: Path) -> list[tuple[ObjectPair, Extraction]]:
    added = {"int work": NEW + "int work"}
    return [
        changed(tmp_path / "button", "button", added),
        changed(tmp_path / "vmlinux", "vmlinux", {"n + state": "n - state"}),
    ]


def refusal(object: str, name: str, found: list[tuple[ObjectPair, Extraction]]) -> str:
    asked = PatchedObject(object, (), {"post_patch": name}, "livepatch.toml:3")
    with pytest.raises(KlpError) as caught:
        check_callbacks([asked], found)
    return str(caught.value)


def test_a_new_function_of_the_object(extractions: list[tuple[ObjectPair, Extraction]]) -> None:
    check_callbacks([PatchedObject("button", (), {"pre_patch": "raise_it"})], extractions)


@pytest.mark.parametrize("name", ["hidden", "not_code", "early", "state"])
def test_what_is_no_callback(extractions: list[tuple[ObjectPair, Extraction]], name: str) -> None:
    assert refusal("button", name, extractions) == (
        f"livepatch.toml:3: callback {name!r} of 'button' is not a global function that the "
        "patches add\n"
        "  The compiler leaves out a static function that nothing calls.\n"
        "  Add it to a file of button, without static or __init."
    )


def test_a_name_that_is_spelt_otherwise(extractions: list[tuple[ObjectPair, Extraction]]) -> None:
    assert refusal("button", "rise_it", extractions).endswith("\n  Did you mean 'raise_it'?")


@pytest.mark.parametrize("object", ["vmlinux", "ext4"])
def test_a_file_of_another_module(
    extractions: list[tuple[ObjectPair, Extraction]], object: str
) -> None:
    assert refusal(object, "raise_it", extractions) == (
        f"livepatch.toml:3: callback 'raise_it' of {object!r} is in drivers/button.c, "
        "a file of button\n"
        "  button need not be loaded when the kernel calls it.\n"
        f"  Add it to a file of {object}."
    )


def test_new_code_of_a_module_that_nothing_runs_is_left_out(
    extractions: list[tuple[ObjectPair, Extraction]],
) -> None:
    kept, notes = without_idle(extractions, ())
    assert [pair.owner for pair, _ in kept] == ["vmlinux"]
    assert notes == [
        "drivers/button.c: nothing that runs calls what is new: raise_it, not_code; left out"
    ]
    button = PatchedObject("button", (), {"pre_patch": "raise_it"})
    assert without_idle(extractions, [button]) == (extractions, [])


def test_new_code_of_a_module_that_another_object_uses(tmp_path: Path) -> None:
    declared = "int raise_it(void *);\nint work(int n) { raise_it(&state);"
    extractions = [
        changed(tmp_path / "button", "button", {"int work": NEW + "int work"}),
        changed(tmp_path / "vmlinux", "vmlinux", {"int work(int n) {": declared}),
    ]
    assert without_idle(extractions, ()) == (extractions, [])
