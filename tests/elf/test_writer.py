"""What the writer writes: nothing moves, readelf has nothing to say, the bytes repeat."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.elf.constants import EM, SHF, SHN_ABS, SHN_LIVEPATCH, SHT, STB, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file

from .inputs import FLAGS, compile_object, small_object
from .test_reader import same_as_pyelftools

#: Names as the kernel's objects have them, and names with bytes that are no UTF-8.
NAMES = st.one_of(
    st.sampled_from(["", ".text", ".rela.text", "f.isra.0", ".klp.sym.vmlinux.printk,0"]),
    st.binary(max_size=40).map(
        lambda text: text.replace(b"\0", b"").decode(errors="surrogateescape")
    ),
)


#: SHF_COMPRESSED: pyelftools would unpack such a section.
COMPRESSED = 0x800


def meaning(elf: ElfFile) -> list[Any]:
    """All that a reader of the file can tell, but where in the file it stands."""
    tables = {s.index for s in elf.sections if s.sh_type == SHT.STRTAB}
    sections = [
        (
            *(s.name, s.sh_type, s.sh_flags, s.sh_addr, s.sh_link, s.sh_info),
            *(s.sh_addralign, s.sh_entsize),
            None if s.index in tables or s.sh_type == SHT.SYMTAB else bytes(elf.contents(s)),
            s.sh_size if s.sh_type == SHT.NOBITS else 0,
        )
        for s in elf.sections
    ]
    symbols = [
        (s.name, s.st_info, s.st_other, s.st_shndx, s.st_value, s.st_size) for s in elf.symbol_list
    ]
    return [bytes(elf.data[:16]), elf.e_type, elf.e_machine, elf.e_flags, sections, symbols]


def readelf_complaints(path: Path) -> str:
    """What readelf says about a file's form on its error channel."""
    done = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
    return done.stderr


@pytest.mark.parametrize("kind", FLAGS)
def test_a_rewritten_object_means_the_same(kind: str, tmp_path: Path) -> None:
    first = ElfFile.read(compile_object(tmp_path, kind))
    path = tmp_path / "copy.o"
    ElfObject.from_elf(first).write(path)
    second = ElfFile.read(path)
    assert meaning(second) == meaning(first)
    same_as_pyelftools(second)
    assert readelf_complaints(path) == ""
    # Once more changes no byte.
    assert ElfObject.from_elf(second).to_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", FLAGS)
def test_the_linker_takes_a_rewritten_object(kind: str, tmp_path: Path) -> None:
    first = compile_object(tmp_path, kind)
    path = tmp_path / "copy.o"
    ElfObject.from_elf(ElfFile.read(first)).write(path)
    outputs = []
    for source in (first, path):
        output = tmp_path / "linked.o"
        done = subprocess.run(
            ["ld", "-r", "--fatal-warnings", "-o", output, source], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(meaning(ElfFile.read(output)))
    assert outputs[0] == outputs[1]


@st.composite
def objects(draw: st.DrawFn) -> ElfObject:
    """Objects of any shape: names repeat, sections are empty, values are extreme."""
    order = draw(st.sampled_from("<>"))
    elf = ElfObject(draw(st.sampled_from(EM)), order, draw(st.integers(0, 2**32 - 1)))
    word = st.integers(0, 2**64 - 1)
    for _ in range(draw(st.integers(1, 5))):
        nobits = draw(st.booleans())
        elf.add_section(
            WritableSection(
                draw(NAMES),
                SHT.NOBITS if nobits else SHT.PROGBITS,
                draw(word) & ~COMPRESSED,
                sh_addralign=2 ** draw(st.integers(0, 63)),
                sh_entsize=draw(word),
                data=b"" if nobits else draw(st.binary(max_size=64)),
                nobits_size=draw(word) if nobits else 0,
            )
        )
    places = st.one_of(
        st.integers(0, len(elf.sections) - 1), st.sampled_from([SHN_ABS, SHN_LIVEPATCH])
    )
    for bind in [STB.LOCAL] * draw(st.integers(0, 4)) + [STB.GLOBAL] * draw(st.integers(0, 4)):
        elf.add_symbol(
            draw(NAMES), bind=bind, type=draw(st.sampled_from(STT)), st_shndx=draw(places),
            st_value=draw(word), st_size=draw(word), st_other=draw(st.integers(0, 255)),
        )  # fmt: skip
    count = len(elf.symbols) + len(elf._added)
    target = draw(st.integers(4, len(elf.sections) - 1))
    rows = np.zeros(draw(st.integers(0, 4)), rela_dtype(order))
    for row in rows:
        row["r_offset"] = draw(st.integers(0, elf.sections[target].sh_size))
        row["r_sym"] = draw(st.integers(0, count - 1))
        row["r_type"] = draw(st.integers(0, 2**32 - 1))
        row["r_addend"] = draw(st.integers(-(2**63), 2**63 - 1))
    elf.add_relocations(draw(NAMES), target, rows, SHF.ALLOC | SHF.RELA_LIVEPATCH)
    return elf


@given(objects())
def test_any_object_comes_back(elf: ElfObject) -> None:
    data = elf.to_bytes()
    first = ElfFile(data, "first.o")
    same_as_pyelftools_but_names(first)
    second = ElfFile(ElfObject.from_elf(first).to_bytes(), "second.o")
    assert meaning(second) == meaning(first)
    for ours, copied in zip(first.relocation_sections, second.relocation_sections, strict=True):
        assert first.relocations(ours).tolist() == second.relocations(copied).tolist()
    assert [s.name for s in first.sections] == [s.name for s in elf.sections]
    assert elf.to_bytes() == data


def same_as_pyelftools_but_names(elf: ElfFile) -> None:
    """pyelftools does not read names that are no UTF-8: compare those that are."""
    if all(name.isprintable() for name in names_of(elf)):
        same_as_pyelftools(elf)


def names_of(elf: ElfFile) -> list[str]:
    return [s.name for s in elf.sections] + [s.name for s in elf.symbol_list]


def test_section_and_symbol_indexes_stay(tmp_path: Path) -> None:
    first = ElfFile.read(compile_object(tmp_path, "link-order"))
    copy = ElfObject.from_elf(first)
    ordered = [s.index for s in first.sections if s.sh_flags & SHF.LINK_ORDER]
    assert ordered
    undefined = next(s.index for s in first.symbol_list if s.name == "elsewhere")
    copy.rename_symbol(undefined, ".klp.sym.vmlinux.elsewhere,0")
    copy.symbols[undefined]["st_shndx"] = SHN_LIVEPATCH
    added = copy.add_symbol("new", bind=STB.GLOBAL, type=STT.NOTYPE, st_shndx=0)
    section = next(s for s in first.relocation_sections if s.name.startswith(".rela.text"))
    appended = copy.add_relocations(
        ".klp.rela.vmlinux.text", section.sh_info, first.relocations(section)[:1],
        SHF.ALLOC | SHF.RELA_LIVEPATCH,
    )  # fmt: skip
    path = tmp_path / "changed.o"
    copy.write(path)
    second = ElfFile.read(path)
    assert appended == len(first.sections)
    assert added == len(first.symbols)
    before, after = meaning(first), meaning(second)
    symtab = first.symtab.index
    assert [s for i, s in enumerate(after[4][:appended]) if i != symtab] == [
        s for i, s in enumerate(before[4]) if i != symtab
    ]
    assert [s.sh_link for s in second.sections if s.sh_flags & SHF.LINK_ORDER] == [
        first.sections[index].sh_link for index in ordered
    ]
    assert second.symbol(undefined).name == ".klp.sym.vmlinux.elsewhere,0"
    assert second.symbol(undefined).st_shndx == SHN_LIVEPATCH
    assert second.symbol(added).name == "new"
    last = second.sections[appended]
    assert (last.sh_type, last.sh_link, last.sh_info) == (SHT.RELA, symtab, section.sh_info)
    assert last.sh_flags == SHF.ALLOC | SHF.RELA_LIVEPATCH
    # 2.40 knows the index, not its name, and stays silent.
    assert readelf_complaints(path) == ""


def test_one_table_for_section_and_symbol_names_does_not_grow() -> None:
    """clang names sections and symbols from one table."""
    small = small_object()
    small._shstrtab = small._strtab
    small.sections[3].sh_type = SHT.PROGBITS
    first = small.to_bytes()
    second = ElfObject.from_elf(ElfFile(first, "clang.o")).to_bytes()
    assert second == first
    assert ElfFile(second, "clang.o").symbol(4).name == "elsewhere"


def test_a_string_is_held_once() -> None:
    small = small_object()
    small.rename_symbol(0, "")
    copy = ElfObject.from_elf(ElfFile(small.to_bytes(), "small.o"))
    size = len(copy.to_bytes())
    copy.rename_symbol(3, "local")
    assert len(copy.to_bytes()) == size
    assert ElfFile(copy.to_bytes(), "small.o").symbol(3).name == "local"


def test_relocations_of_the_other_byte_order_are_turned() -> None:
    small = small_object("<")
    rows = np.array([(8, 7, 3, -1)], rela_dtype("<")[["r_offset", "r_type", "r_sym", "r_addend"]])
    big = small_object(">", EM.S390)
    for elf in (small, big):
        elf.set_relocations(6, rows)
        read = ElfFile(elf.to_bytes(), "turned.o")
        (row,) = read.relocations(read.sections[6])
        assert [row[name] for name in rows.dtype.names or ()] == [8, 7, 3, -1]


def test_a_huge_alignment_takes_no_room() -> None:
    small = small_object()
    small.sections[4].sh_addralign = 2**62
    data = small.to_bytes()
    assert len(data) < 10_000
    assert ElfFile(data, "small.o").sections[4].sh_addralign == 2**62


def refused(elf: ElfObject | None, data: bytes = b"") -> str:
    with pytest.raises(KlpError) as caught:
        ElfObject.from_elf(ElfFile(data or (elf.to_bytes() if elf else b""), "small.o"))
    return str(caught.value)


def test_what_cannot_be_changed() -> None:
    data = bytearray(small_object().to_bytes())
    data[16] = 2
    assert refused(None, bytes(data)) == "small.o: is not a relocatable object"

    stripped = small_object()
    stripped.sections[6:] = []
    data = bytearray(stripped.to_bytes())
    data[int(ElfFile(bytes(data), "").header["e_shoff"]) + 64 + 4] = SHT.PROGBITS
    assert refused(None, bytes(data)) == (
        "small.o: has no symbol table\n  Use the file before it was stripped."
    )

    mixed = ElfFile(small_object().to_bytes(), "small.o")
    table = mixed.sections[1]
    data = bytearray(mixed.data)
    data[table.sh_offset + 24 * 4 + 4] = STB.LOCAL << 4
    assert refused(None, bytes(data)) == "small.o: has a local symbol after a global one"


def test_a_local_symbol_after_a_global_one_is_our_mistake() -> None:
    small = small_object()
    small.add_symbol("late", bind=STB.LOCAL, type=STT.NOTYPE, st_shndx=0)
    with pytest.raises(ValueError, match="a local symbol stands after a global one"):
        small.to_bytes()


def test_too_many_sections() -> None:
    small = small_object()
    small.sections += [WritableSection("", SHT.PROGBITS)] * 0xFF00
    with pytest.raises(KlpError, match="has more than 65,279 sections"):
        small.to_bytes()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "new" / "directory" / "out.ko"
    write_file(path, b"first")
    assert path.read_bytes() == b"first"

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KlpError) as caught:
        write_file(path, b"second")
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["out.ko"]


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out.ko").mkdir()
    with pytest.raises(KlpError) as caught:
        write_file(tmp_path / "out.ko", b"data")
    assert str(caught.value) == f"{tmp_path / 'out.ko'}: cannot be written: Is a directory"
    assert [p.name for p in tmp_path.iterdir()] == ["out.ko"]
