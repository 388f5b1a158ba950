"""Names of undefined symbols, before and after the link."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.result import Key, KeyKind, KeyUse
from klpbuild.names import VMLINUX
from klpbuild.proof.keys import key_policy
from klpbuild.proof.references import LateNames, OwnNames, name_references, rename_undefined
from klpbuild.resolve.fate import Decision, Fate, LivepatchSymbol, Reference, Resolver
from klpbuild.symbols.symvers import Exports

SOURCE = "void a(void); void b(void); void c(void); void run(void) { a(); b(); c(); }\n"


def compiled(tmp_path: Path) -> ElfFile:
    source = tmp_path / "x.c"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-c", "-fno-pic", "-o", tmp_path / "x.o", source], check=True)
    return ElfFile.read(tmp_path / "x.o")


def names(elf: ElfFile) -> set[str]:
    return {s.name for s in elf.symbol_list if s.name and s.st_shndx == 0}


def decision(symbol: str, position: int = 0) -> Decision:
    target = LivepatchSymbol("vmlinux", symbol, position)
    return Decision(Reference(symbol, "x.o"), Fate.LIVEPATCH, "", "vmlinux", target)


def test_names_that_wait_for_objtool(tmp_path: Path) -> None:
    """Those that another object uses for something else, or that are exported, cannot."""
    plain = compiled(tmp_path)
    late = LateNames(lambda name: name == "b")
    first = {"a": decision("a"), "b": decision("b")}
    name_references(plain, first, late).write(tmp_path / "1.o")
    assert names(ElfFile.read(tmp_path / "1.o")) == {"a", ".klp.sym.rela.vmlinux.vmlinux.b,0", "c"}
    second = {"a": decision("a", 2), "b": decision("b"), "c": decision("c")}
    name_references(plain, second, late).write(tmp_path / "2.o")
    assert names(ElfFile.read(tmp_path / "2.o")) == {
        ".klp.sym.rela.vmlinux.vmlinux.a,2",
        ".klp.sym.rela.vmlinux.vmlinux.b,0",
        "c",
    }
    rename_undefined(ElfFile.read(tmp_path / "1.o"), late.names).write(tmp_path / "3.o")
    assert names(ElfFile.read(tmp_path / "3.o")) == {
        ".klp.sym.rela.vmlinux.vmlinux.a,0",
        ".klp.sym.rela.vmlinux.vmlinux.b,0",
        ".klp.sym.rela.vmlinux.vmlinux.c,0",
    }


def test_a_name_that_the_link_bound_is_not_lost(tmp_path: Path) -> None:
    compiled(tmp_path)
    with pytest.raises(ValueError, match=r"defines \['run'\]"):
        rename_undefined(ElfFile.read(tmp_path / "x.o"), {"run": "other"})


class Known:
    """A resolver that knows some global names of vmlinux and of a module."""

    def __init__(self, tmp_path: Path) -> None:
        text = "0x1\texported\tvmlinux\tEXPORT_SYMBOL\t\n"
        (tmp_path / "Module.symvers").write_text(text)
        self.exports = Exports.read(tmp_path / "Module.symvers")

    def owner(self, name: str, home: str) -> str:
        known = {("exported", home): VMLINUX, ("check", "one"): "one"}
        return known.get((name, home), "")


@pytest.fixture
def known(tmp_path: Path) -> Resolver:
    return cast(Resolver, Known(tmp_path))


def test_a_new_global_is_for_those_that_can_mean_it(known: Resolver) -> None:
    """Module ``one`` has a function of the name that the patch adds to ``two``."""
    own = OwnNames.collect([("two", "two.c:two.o", ["check"])], known)
    found = {owner: own.bind("check", owner, known) for owner in ("one", "two", VMLINUX)}
    assert found == {"one": False, "two": True, VMLINUX: True}
    assert not own.bind("other", "two", known)


@pytest.mark.parametrize(
    ("brought", "told"),
    [
        (
            [("one", "one.c:one.o", ["check"]), ("two", "two.c:two.o", ["check"])],
            "two.c:two.o:check: check is new in two, and one has one of this name, too",
        ),
        (
            [("one", "one.c:one.o", ["exported"])],
            "one.c:one.o:exported: exported is new in one, and vmlinux has one of this name, too",
        ),
    ],
)
def test_a_new_global_of_another_meaning_is_refused(
    known: Resolver, brought: list[tuple[str, str, list[str]]], told: str
) -> None:
    with pytest.raises(KlpError) as caught:
        OwnNames.collect(brought, known)
    assert str(caught.value) == (
        f"{told}\n"
        "  A livepatch is one module, and would mix them up.\n"
        "  Give the new one another name."
    )


def test_a_static_key_that_another_object_brings(known: Resolver) -> None:
    key = Key(KeyKind.STATIC_BRANCH, "fresh", None, False)
    assert key_policy(known, "one", lambda name: name == "fresh")(key) is KeyUse.SWITCHED
    said = "static key fresh is not in this kernel where one could use it"
    assert key_policy(known, "one")(key) == said
