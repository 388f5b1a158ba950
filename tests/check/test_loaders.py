"""The models of module loaders other than that of x86-64, on small compiled objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.check import catalogue
from klpbuild.check.header import header_faults
from klpbuild.check.kernelside import arch_vermagic
from klpbuild.check.loaders import check_loading
from klpbuild.check.patched import Patched
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import EM, SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.config import Config
from tests.check.editor import Edit, Editor, edited
from tests.machines.objects import FLAGS, compile_for

_SOURCE = """
    extern int other(int);
    extern int theirs;
    int kept;
    int f(int x) { return other(x) + kept + theirs; }
    int g(int x) { other(x); return f(x + 1) + 1; }
    int (*pointer)(int) = f;
"""
#: recordmcount or objtool makes it in a kernel's build.
_ENTRY = 'asm(".section __mcount_loc,\\"a\\"; .quad f + 12; .previous");'


def _found(data: bytes) -> list[tuple[str, str]]:
    """What the models say of what is no whole module."""
    subject = Subject(ElfFile(data, "x.ko"), "x.ko", None)
    check_loading(subject)
    return [
        (f.rule.identifier, f.what) for f in subject.findings if f.rule is not catalogue.NOT_FILLED
    ]


def _object(arch: str, directory: Path) -> bytes:
    return compile_for(arch, directory, _SOURCE + _ENTRY * (arch == "powerpc64le"))


@pytest.mark.parametrize("arch", FLAGS)
def test_what_the_compiler_makes_is_sound(arch: str, tmp_path: Path) -> None:
    assert _found(_object(arch, tmp_path)) == []


_LABELS = """
    int step(int n)
    {
        static const void *const labels[] = { &&one, &&two };
        goto *labels[n];
    one: return other(1);
    two: return other(2);
    }
"""


@pytest.mark.parametrize("arch", FLAGS)
def test_labels_of_the_function_that_uses_their_table(arch: str, tmp_path: Path) -> None:
    assert _found(compile_for(arch, tmp_path, _SOURCE + _LABELS)) == []
    stray = 'asm(".section .rodata; .balign 8; .quad g + 4; .previous");'
    if arch != "powerpc64le":  # its functions find all tables in one, .toc
        (found,) = _found(compile_for(arch, tmp_path, _SOURCE + stray))
        assert found[0] == "KLP423"


def test_s390_takes_addresses_by_other_instructions(tmp_path: Path) -> None:
    """As gcc 12 makes them: of a static function, and in a comparison of pointers."""
    code = (
        r'asm("larl %r1,f@PLT\n lgrl %r1,other@GOTENT\n cgrl %r1,other@GOTENT\n"'
        r' "clgrl %r1,other@GOTENT");'
    )
    assert _found(compile_for("s390x", tmp_path, _SOURCE + code)) == []
    wrong = compile_for("s390x", tmp_path, _SOURCE + 'asm("chrl %r1,other@GOTENT");')
    assert ("KLP427", _MISFIT.format("R_390_GOTENT")) in _found(wrong)


def _row(section: str, symbol: str, **fields: int) -> Edit:
    """Change the first relocation that names a symbol."""

    def edit(e: Editor) -> None:
        rows = e.rows(section)
        index = e.symbol(symbol)
        number = next(n for n, row in enumerate(rows) if row["r_sym"] == index)
        moved = {f: int(rows[number][f]) + v if f == "r_offset" else v for f, v in fields.items()}
        e.change_row(section, number, **moved)

    return edit


def _bytes(section: str, old: str, new: str) -> Edit:
    return lambda e: e.replace(section, bytes.fromhex(old), bytes.fromhex(new))


_MISFIT = "{} is not in an instruction that has such a field"
_UNKNOWN = ".rela.text has a relocation of type {}"
_NO_ENTRY = "{} names .text+{}, which is no entry call"


@pytest.mark.parametrize(
    ("arch", "edit", "rule", "what"),
    [
        ("s390x", _row(".rela.text", "other", r_type=61), "KLP415", _UNKNOWN.format(61)),
        ("s390x", _row(".rela.text", "f", r_type=19, r_addend=1), "KLP416",
         "R_390_PC32DBL cannot hold a distance that is no multiple of 2"),
        ("s390x", _row(".rela.text", "other", r_offset=2), "KLP427",
         _MISFIT.format("R_390_PLT32DBL")),
        ("s390x", _row(".rela.text", "theirs", r_offset=-2), "KLP427",
         _MISFIT.format("R_390_GOTENT")),
        ("s390x", _bytes(".text", "c00400000000", "c0f400000000"), "KLP512",
         _NO_ENTRY.format("__mcount_loc", "0x0")),
        ("powerpc64le", _row(".rela.text", "other", r_type=0), "KLP415", _UNKNOWN.format(0)),
        ("powerpc64le", _row(".rela.text", "other", r_offset=4), "KLP427",
         _MISFIT.format("R_PPC64_REL24")),
        ("powerpc64le", _bytes(".text", "0100004800000060", "0100004814627f7c"), "KLP432",
         "the call is followed by 7c7f6214, which is no nop"),
        ("powerpc64le", _bytes(".text", "a602087c01000048", "a603087c01000048"), "KLP512",
         _NO_ENTRY.format("__mcount_loc", "0x14")),
        ("aarch64", _row(".rela.text", "other", r_type=311), "KLP415", _UNKNOWN.format(311)),
        ("aarch64", _row(".rela.text", "other", r_offset=4), "KLP427",
         _MISFIT.format("R_AARCH64_CALL26")),
        ("aarch64", _row(".rela.text", "theirs", r_type=277), "KLP427",
         _MISFIT.format("R_AARCH64_ADD_ABS_LO12_NC")),
        ("aarch64", _row(".rela.text", "theirs", r_offset=4), "KLP427",
         _MISFIT.format("R_AARCH64_ADR_PREL_PG_HI21")),
        ("aarch64", _bytes(".text", "5f2403d51f2003d5", "5f2403d5fd7bbfa9"), "KLP512",
         _NO_ENTRY.format("__patchable_function_entries", "0x0")),
    ],
)  # fmt: skip
def test_damage_is_found(arch: str, edit: Edit, rule: str, what: str, tmp_path: Path) -> None:
    assert (rule, what) in _found(edited(edit)(_object(arch, tmp_path)))


@pytest.mark.parametrize(("arch", "missing"), [("powerpc64le", ".stubs"), ("aarch64", ".plt")])
def test_what_the_loader_fills_must_be_there(arch: str, missing: str, tmp_path: Path) -> None:
    subject = Subject(ElfFile(_object(arch, tmp_path), "x.ko"), "x.ko", None)
    check_loading(subject)
    assert f"has no section {missing}" in [
        f.what for f in subject.findings if f.rule is catalogue.NOT_FILLED
    ]


@pytest.mark.parametrize("callbacks", [frozenset(), frozenset({"post_unpatch"})])
def test_s390_keeps_addresses(callbacks: frozenset[str], tmp_path: Path) -> None:
    """Entries of a GOT stay as they are when the module comes again, unless a callback helps."""
    editor = Editor(_object("s390x", tmp_path))
    editor.section(".rela.text").sh_flags |= SHF.RELA_LIVEPATCH
    editor.section(".rela.text").name = ".klp.rela.loop.text"
    subject = Subject(ElfFile(editor.data(), "x.ko"), "x.ko", None)
    subject.patched = (Patched("loop", (), callbacks, ()),)
    check_loading(subject)
    found = [f.what for f in subject.findings if f.rule is catalogue.KEEPS_ADDRESS]
    kept = "nothing makes .klp.rela.loop.text forget where loop was"
    assert found == ([] if callbacks else [kept])


def test_a_module_of_the_other_byte_order(tmp_path: Path) -> None:
    data = _object("powerpc64le", tmp_path)
    faults = header_faults(data, EM.S390, (6, 12))
    assert [fault.what for fault in faults] == [
        "has e_type 256, not ET_REL: it is little-endian, and s390x is big-endian"
    ]
    faults = header_faults(data, EM.X86_64, (6, 12))
    assert [fault.what for fault in faults] == ["is for powerpc64le, not x86_64"]


@pytest.mark.parametrize(
    ("machine", "options", "said"),
    [
        (EM.PPC64, "MPROFILE_KERNEL RELOCATABLE", "mprofile-kernel relocatable "),
        (EM.PPC64, "ARCH_USING_PATCHABLE_FUNCTION_ENTRY MPROFILE_KERNEL",
         "patchable-function-entry "),
        (EM.AARCH64, "RELOCATABLE", "aarch64"),
        (EM.LOONGARCH, "64BIT", "LOONGARCH 64BIT "),
        (EM.S390, "RELOCATABLE", ""),
    ],
)  # fmt: skip
def test_vermagic_ends_as_the_architecture_says(
    machine: EM, options: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / ".config"
    path.write_text("".join(f"CONFIG_{option}=y\n" for option in options.split()))
    assert arch_vermagic(machine, Config.read(path)) == said
