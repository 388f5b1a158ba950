"""The gate of each livepatch relocation: what is there when it loads, and what ran before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from klpbuild.check import catalogue
from klpbuild.check.gates import check_gates
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.subject import Subject
from klpbuild.convert.converter import Conversion, convert
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.graph.tables import read_entries, read_patches
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.names import LivepatchSection
from klpbuild.resolve.fate import Decision, Resolver
from klpbuild.resolve.gates import Use
from klpbuild.resolve.reach import Reach
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from tests.machines.objects import FLAGS, compile_for
from tests.objects import HEADER, compile_c, module_symvers, symbols_klp
from tests.tables import livepatch_c, modules

DEPENDS = {
    "base": "", "netfs": "base", "cifs": "netfs", "fscache": "netfs", "cachefiles": "fscache,netfs",
    "alone": "",
}  # fmt: skip
EXPORTS = {
    "vmlinux": "klp_enable_patch _mcount",
    "netfs": "netfs_read",
    "base": "base_get",
    "alone": "alone_get",
}
SYMBOLS = EXPORTS | {"vmlinux": "klp_enable_patch kernel_get _mcount", "cifs": "cifs_get"}
EXTERN = (
    "extern int netfs_read(int), base_get(int), alone_get(int), kernel_get(int), cifs_get(int);"
)

F = "int f(int a) { return netfs_read(a) + 1; }"
G = "int g(int a) { return netfs_read(a) + 2; }"
OTHER_G = "int g(int a) { return a; }"
SHARED = """static noinline int helper(int a) { return netfs_read(a) + 1; }
int f(int a) { return helper(a) + 1; } int g(int a) { return helper(a) + 2; }"""
INSTEAD = "What is exported with EXPORT_SYMBOL_GPL can be asked for while running: symbol_get()."


class Blind(Resolver):
    """Takes the only object that it knows as the gate of everything."""

    def place(self, decision: Decision, use: Use) -> Decision:
        (gate,) = self.patched
        owner = decision.target.owner if decision.target else ""
        return replace(decision, gate="vmlinux" if owner == "vmlinux" else gate)


class Kernel:
    """A kernel of a few modules, and livepatches for it."""

    def __init__(self, directory: Path, arch: str = "") -> None:
        self.directory, self.arch = directory, arch
        self.dependencies = Dependencies(modules(directory, **DEPENDS))
        self.exports = Exports.read(module_symvers(directory, **EXPORTS))
        self.database = SymbolDatabase.read(symbols_klp(directory, **SYMBOLS))

    def convert(
        self, source: str, objects: Mapping[str, str], gate: str = "", **more: str
    ) -> Conversion:
        """:param gate: of all symbols of modules, right or wrong."""
        text = livepatch_c(EXTERN + source, objects, **more)
        if self.arch:
            data = compile_for(self.arch, self.directory, text, "-include", str(HEADER))
            linked = ElfFile(data, "livepatch.o")
        else:
            linked = ElfFile.read(compile_c(self.directory, text))
        patched = frozenset(p.object for p in read_patches(linked))
        resolver = Resolver(self.database, self.exports, patched, self.dependencies)
        if gate:
            resolver = Blind(self.database, self.exports, frozenset({gate}))
        return convert(linked, resolver, read_entries(linked))

    def checked(self, data: bytes) -> Subject:
        """What the check says of a module's gates."""
        modules = {name: Path() for name in DEPENDS}
        side = SimpleNamespace(
            version=(6, 1), database=None, dependencies=self.dependencies, modules=modules
        )
        subject = Subject(ElfFile(data, "livepatch.ko"), "livepatch.ko", cast(KernelSide, side))
        check_gates(subject)
        return subject

    def gates(self, source: str, objects: Mapping[str, str], **more: str) -> dict[str, str]:
        """The gates of the livepatch relocations in each function and variable."""
        data = self.convert(source, objects, **more).data
        subject = self.checked(data)
        assert (subject.findings, subject.unchecked) == ([], [])
        elf = ElfFile(data, "livepatch.ko")
        reach = Reach(elf, read_entries(elf))
        found: dict[str, set[str]] = {}
        for section in elf.relocation_sections:
            name = LivepatchSection.parse(section.name)
            if section.sh_flags & SHF.RELA_LIVEPATCH and name is not None:
                for offset in elf.relocations(section)["r_offset"].tolist():
                    place = reach.name(section.sh_info, offset)
                    found.setdefault(place, set()).add(name.gate)
        return {place: " ".join(sorted(gates)) for place, gates in found.items()}

    def error(self, source: str, objects: Mapping[str, str], **more: str) -> str:
        with pytest.raises(KlpError) as caught:
            self.convert(source, objects, **more)
        return str(caught.value).replace(f"{self.directory}/", "")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


ANNOTATED = "extern int x(int) KLP_RELOC_SYMBOL({}); int f(int a) {{ return x(a) + 1; }}"


@pytest.mark.parametrize(
    ("source", "objects", "gates"),
    [
        pytest.param(F, {"cifs": "f"}, {"f": "cifs"}, id="the only module"),
        pytest.param(F + OTHER_G, {"cifs": "f", "alone": "g"}, {"f": "cifs"},
                     id="the module that depends on the owner"),
        pytest.param(F + G, {"cifs": "f", "cachefiles": "g"}, {"f": "cifs", "g": "cachefiles"},
                     id="one symbol under two gates"),
        pytest.param("int f(int a) { return base_get(a) + 1; }", {"cachefiles": "f"},
                     {"f": "cachefiles"}, id="a dependency of a dependency"),
        pytest.param(SHARED, {"cifs": "f", "netfs": "g"}, {"helper": "netfs"},
                     id="a helper of two, one of which the other needs"),
        pytest.param(SHARED.replace("netfs_read", "kernel_get"), {"cifs": "f", "alone": "g"},
                     {"helper": "vmlinux"}, id="a helper of two that vmlinux is enough for"),
        pytest.param("static int (*volatile table[])(int) = { netfs_read };"
                     "int f(int a) { return table[0](a); }" + OTHER_G,
                     {"cifs": "f", "vmlinux": "g"}, {"table": "cifs"}, id="a table"),
        pytest.param("int dead(int a) { return netfs_read(a) + 1; }" + OTHER_G,
                     {"cifs": "g"}, {"dead": "cifs"}, id="code that nothing reaches"),
        pytest.param("int f(int a) { return cifs_get(a) + 1; }" + OTHER_G,
                     {"cifs": "f", "vmlinux": "g"}, {"f": "cifs"}, id="not exported"),
        *(pytest.param("int f(void *o) { return netfs_read(1) + 1; }" + OTHER_G,
                       {"cifs": f"{kind}=f", "vmlinux": "g"}, {"f": "cifs"}, id=kind)
          for kind in ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")),
        pytest.param(ANNOTATED.format("cachefiles, base, base_get"), {"cachefiles": "f"},
                     {"f": "cachefiles"}, id="annotated, a dependency of a dependency"),
        pytest.param(ANNOTATED.format("netfs, netfs, netfs_read") + OTHER_G,
                     {"cifs": "f", "netfs": "g"}, {"f": "netfs"},
                     id="annotated, a gate that the object needs"),
    ],
)  # fmt: skip
def test_gates(
    kernel: Kernel, source: str, objects: Mapping[str, str], gates: Mapping[str, str]
) -> None:
    assert kernel.gates(source, objects) == gates


def test_the_decisions_of_one_symbol_are_kept_apart(kernel: Kernel) -> None:
    conversion = kernel.convert(F + G, {"cifs": "f", "cachefiles": "g"})
    found = [d for d in conversion.decisions if d.target is not None]
    assert [(d.gate, d.target.owner) for d in found if d.target] == [
        ("cifs", "netfs"), ("cachefiles", "netfs"),
    ]  # fmt: skip
    assert [(r.decision.gate, r.count) for r in conversion.relocations] == [
        ("cifs", 1), ("cachefiles", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "objects", "more", "text"),
    [
        pytest.param(
            F, {"alone": "f", "vmlinux": "g"}, {"g": OTHER_G},
            "symbol 'netfs_read' belongs to module netfs, on which no patched module depends\n"
            "  A livepatch relocation is applied when a patched module loads, "
            "and netfs need not be there then.\n"
            f"  Patched: alone, vmlinux. {INSTEAD}", id="nobody depends on the owner"),
        pytest.param(
            F, {"vmlinux": "f", "cifs": "g"}, {"g": OTHER_G},
            "symbol 'netfs_read' of module netfs is used by code of vmlinux\n"
            "  It is in f of vmlinux. The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id="code of vmlinux"),
        pytest.param(
            SHARED, {"vmlinux": "f", "cifs": "g"}, {},
            "symbol 'netfs_read' of module netfs is used by code of cifs and vmlinux\n"
            "  helper is reached from g of cifs and f of vmlinux. "
            "The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id="a helper"),
        pytest.param(
            SHARED, {"cachefiles": "f", "cifs": "g"}, {},
            "symbol 'netfs_read' of module netfs is used by code of cachefiles and cifs\n"
            "  helper is reached from f of cachefiles and g of cifs. "
            "The place holds zeros until cachefiles or cifs loads.\n"
            "  Give each of these objects a function of its own that uses it.",
            id="a helper of two modules"),
        pytest.param(
            "static int (*volatile table[])(int) = { netfs_read };"
            "int f(int a) { return table[0](a); }", {"vmlinux": "f", "cifs": "g"}, {"g": OTHER_G},
            "symbol 'netfs_read' of module netfs is used by code of vmlinux\n"
            "  table is reached from f of vmlinux. The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id="a table"),
        pytest.param(
            SHARED, {"cifs": "f g"}, {"init": "f(1);"},
            "symbol 'netfs_read' of module netfs is used by code of the livepatch itself and cifs\n"
            "  helper is reached from init_module of the livepatch itself and f of cifs. "
            "The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id="init"),
        pytest.param(
            SHARED, {"cifs": "f g"}, {"exit": "f(1);"},
            "symbol 'netfs_read' of module netfs is used by code of the livepatch itself and cifs\n"
            "  helper is reached from cleanup_module of the livepatch itself and f of cifs. "
            "The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id="exit"),
        *(pytest.param(
            "int f(void *o) { return netfs_read(1) + 1; }",
            {"cifs": "g", "vmlinux": f"{kind}=f"}, {"g": OTHER_G},
            "symbol 'netfs_read' of module netfs is used by code of vmlinux\n"
            "  It is in f of vmlinux. The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}", id=kind)
          for kind in ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")),
        pytest.param(
            ANNOTATED.format("cifs, netfs, netfs_read"), {"vmlinux": "f", "cifs": "g"},
            {"g": OTHER_G},
            "symbol 'netfs_read' of module netfs is used by code of vmlinux\n"
            "  It is in f of vmlinux. The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}",
            id="annotated, code of vmlinux"),
        pytest.param(
            ANNOTATED.format("cifs, netfs, netfs_read"), {"cachefiles": "f", "cifs": "g"},
            {"g": OTHER_G},
            "symbol 'netfs_read' of module netfs is used by code of cachefiles\n"
            "  It is in f of cachefiles. The place holds zeros until cifs loads.\n"
            f"  Use it only in functions and callbacks of cifs. {INSTEAD}",
            id="annotated, code of another module"),
    ],
)  # fmt: skip
def test_places_without_a_gate(
    kernel: Kernel, source: str, objects: Mapping[str, str], more: dict[str, str], text: str
) -> None:
    source += more.get("g", "")
    more = {word: code for word, code in more.items() if word != "g"}
    where, _, said = kernel.error(source, objects, **more).partition(": ")
    assert said == text
    assert where.startswith(("livepatch.o:.text+0x", "livepatch.o:.data+0x"))
    if "no patched module depends" not in text:
        blind = kernel.convert(source, objects, "cifs", **more)
        assert {f.rule for f in kernel.checked(blind.data).findings} == {catalogue.EARLY_CODE}


@pytest.mark.parametrize(
    ("annotation", "objects", "hint"),
    [
        ("alone, netfs, netfs_read", {"alone": "f"}, INSTEAD),
        ("alone, netfs, netfs_read", {"alone": "f", "cifs": "g"},
         "Patched objects that depend on netfs: cifs."),
        ("netfs, cifs, cifs_get", {"netfs": "f"}, INSTEAD),
    ],
)  # fmt: skip
def test_an_annotated_gate_must_need_the_owner(
    kernel: Kernel, annotation: str, objects: Mapping[str, str], hint: str
) -> None:
    gate, owner, symbol = annotation.split(", ")
    assert kernel.error(ANNOTATED.format(annotation) + OTHER_G, objects) == (
        f"livepatch.o:KLP_RELOC_SYMBOL({annotation}): "
        f"symbol '{symbol}' of module {owner} cannot be applied when {gate} loads\n"
        f"  {gate} does not depend on {owner}, which need not be loaded then: "
        f"the kernel would refuse {gate}, or the livepatch.\n"
        f"  {hint}"
    )


@pytest.mark.parametrize("arch", FLAGS)
def test_the_check_finds_it_for_other_machines(arch: str, tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, arch)
    early = kernel.checked(kernel.convert(SHARED, {"cifs": "f", "alone": "g"}, "cifs").data)
    assert {(f.rule, f.what) for f in early.findings} == {
        (catalogue.EARLY_CODE, "helper runs with alone, to which g leads, and waits for cifs")
    }
    late = kernel.checked(kernel.convert(SHARED, {"cifs": "f", "netfs": "g"}, "netfs").data)
    assert late.findings == []


def test_the_check_finds_what_others_made(kernel: Kernel) -> None:
    known, kernel.dependencies = kernel.dependencies, Dependencies()
    early = kernel.convert(SHARED, {"cifs": "f", "netfs": "g"}, "netfs").data
    subject = kernel.checked(early)
    assert [(u.rule, u.why) for u in subject.unchecked] == [
        (catalogue.EARLY_CODE, "whether cifs depends on netfs is not known")
    ]
    kernel.dependencies = known
    assert kernel.checked(early).findings == []
    (found,) = kernel.checked(kernel.convert(SHARED, {"alone": "f"}, "alone").data).findings
    assert (found.rule, found.what, found.where.partition("+")[0]) == (
        catalogue.OWNER_ABSENT,
        "netfs_read of netfs is looked up when alone loads, which does not depend on it",
        ".text",
    )
    blind = kernel.convert(SHARED, {"cifs": "f", "vmlinux": "g"}, "cifs", init="f(1);").data
    assert sorted(found.what for found in kernel.checked(blind).findings) == [
        "helper runs with the livepatch itself, to which init_module leads, and waits for cifs",
        "helper runs with vmlinux, to which g leads, and waits for cifs",
    ]


def test_what_is_not_known_is_told(kernel: Kernel) -> None:
    """The modules of a kernel of which only the headers are there say nothing."""
    kernel.dependencies = Dependencies()
    two = {"cifs": "f", "alone": "g"}
    unchecked = ("whether cifs depends on netfs: its file is not at hand",)
    assert kernel.convert(F + OTHER_G, two).unchecked == unchecked
    assert kernel.convert(F, {"cifs": "f"}).unchecked == unchecked
    assert kernel.convert("int f(int a) { return cifs_get(a) + 1; }", {"cifs": "f"}).unchecked == ()
    said = kernel.error(SHARED, two).partition(": ")[2]
    assert said == (
        "symbol 'netfs_read' of module netfs may wait for several objects: alone and cifs\n"
        "  Not known: whether alone depends on netfs: its file is not at hand.\n"
        "  Name the one that depends on netfs and runs the code: "
        "KLP_RELOC_SYMBOL(MODULE, netfs, netfs_read)."
    )
