"""The proof: where each reference of a patched function leads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from klpbuild.check.explain import Explainer
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.subject import Subject
from klpbuild.check.transcript import as_record, lines
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from tests.check.breaks import HOMONYM, SWAPINFO
from tests.check.kernels import make_from

#: The shipped meminfo_proc_show once more, with only a number changed.
AGAIN = """
int klp_homonym(void);
int livepatch_meminfo_proc_show(void *m)
{ return si_meminfo(m) + klp_si_swapinfo(m) + klp_homonym(); }
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""


def again(directory: Path, position: int) -> bytes:
    """A livepatch with the shipped code, that calls one of two functions of a name."""
    symbols = {
        "klp_si_swapinfo": SWAPINFO,
        "klp_homonym": f".klp.sym.vmlinux.{HOMONYM},{position}",
    }
    return make_from(directory, "again", AGAIN, symbols, "vmlinux")


def explainer(data: bytes, side: KernelSide) -> Explainer:
    return Explainer(Subject(ElfFile(data, "again.ko"), "again.ko", side))


@pytest.mark.parametrize(("position", "right"), [(1, True), (2, False)])
def test_unchanged_code_leads_to_the_same_symbol(
    miniature: KernelSide, tmp_path: Path, position: int, right: bool
) -> None:
    """Only the comparison with the shipped code can tell which of two is meant."""
    findings = check_bytes(again(tmp_path, position), "again.ko", miniature).findings
    assert [f.rule.identifier for f in findings] == ([] if right else ["KLP605"])
    if not right:
        (first, second) = miniature.database.in_object("vmlinux", HOMONYM)
        assert f"at {first.address:#x} became" in findings[0].what
        assert f"at {second.address:#x}" in findings[0].what


def test_a_file_of_another_kind(miniature: KernelSide, tmp_path: Path) -> None:
    """Only of modules is all checked that relocations name."""
    data = bytearray(again(tmp_path, 1))
    data[16] = 0x3F
    with pytest.raises(KlpError) as caught:
        explainer(bytes(data), miniature)
    assert str(caught.value) == "again.ko: is no module: it is not relocatable"


def test_every_relocation_leads_where_its_symbol_is(miniature: KernelSide, tmp_path: Path) -> None:
    """An independent reader says which relocations there are; the code must agree."""
    data = again(tmp_path, 2)
    explanation = explainer(data, miniature).explain("meminfo_proc_show")
    elf = ELFFile(io.BytesIO(data))
    section = elf.get_section_by_name(".klp.rela.vmlinux.text")
    assert isinstance(section, RelocationSection)
    symbols = elf.get_section_by_name(".symtab")
    wanted = set()
    for relocation in section.iter_relocations():
        name = symbols.get_symbol(relocation["r_info_sym"]).name
        owner, symbol, number = name[9:].replace(",", ".").split(".")
        found = miniature.database.in_object(owner, symbol)[max(int(number) - 1, 0)]
        wanted.add((relocation["r_offset"] - 1, found.address))
    targets = {(p.new.offset, p.new.target) for p in explanation.pairs if p.new and p.new.target}
    assert len(wanted) == 2
    assert wanted <= targets


def test_what_is_shown(miniature: KernelSide, tmp_path: Path) -> None:
    explanation = explainer(again(tmp_path, 2), miniature).explain("meminfo_proc_show")
    text = "\n".join(lines(explanation))
    assert text.startswith("livepatch_meminfo_proc_show replaces meminfo_proc_show of vmlinux\n")
    assert "not exported: number 2 of 2 of its name, resolved with the livepatch" in text
    assert "si_meminfo\n      -> vmlinux:si_meminfo at 0xffffffff81" in text
    assert "ERROR: vmlinux:" in text
    assert text.count(" ! ") == 1
    changes = list(lines(explanation, changes_only=True))
    assert any(" ! " in line for line in changes)
    assert any("the same" in line for line in changes)


def test_what_programs_read(miniature: KernelSide, tmp_path: Path) -> None:
    explanation = explainer(again(tmp_path, 2), miniature).explain("meminfo_proc_show")
    record = as_record(explanation)
    assert json.loads(json.dumps(record)) == record
    assert record["replaces"] == "vmlinux:meminfo_proc_show"
    assert record["mismatches"] == [mismatch.what for mismatch in explanation.mismatches]
    assert len(record["instructions"]) == len(explanation.pairs)
    changes = as_record(explanation, changes_only=True)["instructions"]
    same = [each for each in changes if each["same"]]
    assert 0 < len(changes) < len(explanation.pairs)
    assert len(same) <= len(explanation.mismatches)  # these look the same, and lead elsewhere


def test_a_modules_function(miniature: KernelSide, good: dict[str, bytes]) -> None:
    explanation = explainer(good["button"], miniature).explain("param_get_lid_init_state")
    assert explanation.shipped
    assert explanation.mismatches == ()
    assert any(p.new and "# button:lid_init_state" in p.new.text for p in explanation.pairs)


def test_unknown_function(miniature: KernelSide, good: dict[str, bytes]) -> None:
    with pytest.raises(KlpError) as error:
        explainer(good["meminfo"], miniature).explain("nowhere")
    assert str(error.value) == (
        "again.ko: has no function 'nowhere'\n  It patches: livepatch_meminfo_proc_show."
    )
