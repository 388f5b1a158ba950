"""What was extracted from an object is kept, and taken again only when all is as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from klpbuild.arch import X86_64
from klpbuild.elf.reader import ElfFile
from klpbuild.extract.extraction import extract_part
from klpbuild.extract.part import Part
from klpbuild.extract.result import Extraction, KeyUse
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.pair import ObjectPair
from klpbuild.pipeline.keptparts import KeptParts
from tests.extract.pairs import SIZES, Pair

SOURCE = """
extern struct static_key others;
static int calls;
int out(int);
int first(int n) { calls++; return static_branch(&others) ? out(n) : 2; }
noinline int second(int n) { return out(n) + 4; }
"""
KEEP = KeyUse.SWITCHED


class Object:
    """An object of a patch, and how often it was extracted."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = Pair(directory, SOURCE, {"out(n) : 2": "out(n + 1) : 2"})
        versions = pair.objects(pair.source, pair.patched_source())
        self.part = Part(
            number=3, owner="m", where="code.c:code.o", original=versions[0],
            patched=versions[1], source="code.c", sizes=SIZES,
        )  # fmt: skip
        self.pair = ObjectPair(
            "m", "code.c", "code.o", directory, directory, directory,
            CompileCommand("code.o", "code.c", ("gcc", "-c"), ()), frozenset({"code.c"}),
        )  # fmt: skip
        self.kept = KeptParts(directory / "kept", {"code.c": "1"})
        self.times = 0

        def extracted(*given: Any) -> Extraction:
            self.times += 1
            return extract_part(*given)

        monkeypatch.setattr("klpbuild.pipeline.keptparts.extract_part", extracted)

    def extract(self, use: KeyUse = KEEP, renewed: frozenset[str] = frozenset()) -> Extraction:
        self.part.forget()
        return self.kept.extract(self.pair, self.part, X86_64, lambda key: use, renewed)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Object:
    return Object(tmp_path, monkeypatch)


def test_the_same_is_extracted_once(one: Object) -> None:
    first = one.extract()
    one.part.number = 7
    assert one.extract() == replace(first, number=7)
    assert one.times == 1
    assert [changed.name for changed in first.changed] == ["first"]
    assert ElfFile(first.object, "code.o").symbol_list


def with_file(one: Object) -> None:
    one.kept = replace(one.kept, digests={"code.c": "2"})


def with_command(one: Object) -> None:
    command = replace(one.pair.command, arguments=("gcc", "-c", "-O1"))
    one.pair = replace(one.pair, command=command)


def with_data(one: Object) -> None:
    one.part.accepted_data = ("calls",)


def with_known(one: Object) -> None:
    one.part.known = frozenset({"second"})


def with_declarations(one: Object) -> None:
    one.part.declares = False


def with_other_code(one: Object) -> None:
    one.part.patched, one.part.original = one.part.original, one.part.patched


@pytest.mark.parametrize(
    "change",
    [with_file, with_command, with_data, with_known, with_declarations, with_other_code],
)
def test_what_counts_is_extracted_anew(one: Object, change: Callable[[Object], None]) -> None:
    one.extract()
    change(one)
    one.extract()
    assert one.times == 2


def test_all_that_a_part_has_is_thought_of() -> None:
    """A new field decides about extractions, too: it must be in their key, or be named here."""
    in_key = {"owner", "where", "original", "patched", "sizes", "declares", "known"}
    in_key |= {"accepted_data", "source"}
    # the types follow from the files, the directories are taken out of texts
    without = {"number", "types", "trees", "ties"}
    assert {each.name for each in fields(Part)} == in_key | without


def test_another_answer_for_a_key_counts(one: Object) -> None:
    ((key, use),) = one.extract().keys
    assert (key.name, use) == ("others", KEEP)
    assert one.extract(KeyUse.DETACHED).keys == ((key, KeyUse.DETACHED),)
    assert one.times == 2


def test_a_function_that_is_declared_otherwise_counts(one: Object) -> None:
    one.extract()
    one.extract(renewed=frozenset({"second"}))
    assert one.times == 2


def test_an_object_that_shares_names_is_extracted_each_time(one: Object) -> None:
    one.part.ties.left["gone"] = "other.c:other.o"
    one.extract()
    one.extract()
    assert one.times == 2


def test_an_object_that_was_compared_with_others_is_extracted_each_time(one: Object) -> None:
    one.extract()
    assert one.part.correlation
    one.kept.extract(one.pair, one.part, X86_64, lambda key: KEEP, frozenset())
    assert one.times == 2


def test_what_cannot_be_read_is_extracted_anew(one: Object, capsys: Any) -> None:
    first = one.extract()
    (file,) = (one.kept.directory).glob("code.extraction")
    file.write_bytes(file.read_bytes()[:40])
    assert one.extract() == first
    assert "is damaged, and counts as missing" in capsys.readouterr().err


def test_the_keys_that_code_branches_by_are_found_once(one: Object) -> None:
    keys = one.kept.branching(one.pair, one.part)
    one.part.forget()
    assert one.kept.branching(one.pair, one.part) == keys and one.part.is_alone
    assert [key.name for key in keys] == ["others"]
