"""For each rule a livepatch that breaks it: made from the samples meminfo and button."""

from __future__ import annotations

import numpy as np

from klpbuild.elf.constants import SHF, SHN_ABS, SHN_COMMON, SHT, STB
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import WritableSection
from tests.check.editor import R_NONE, Broken, Edit, Editor, edited, header, section_header

SWAPINFO = ".klp.sym.vmlinux.si_swapinfo,0"
VMLINUX_SECTION = ".klp.rela.vmlinux.text"
BUTTON_SECTION = ".klp.rela.button.text"
LID = ".klp.sym.button.lid_init_state,0"

#: Names that Debian's kernels have, and the miniature kernel of these tests.
HOMONYM, INIT, NOTRACE = "init_once", "start_kernel", "native_write_msr"
INLINED = "orderly_poweroff"
THREAD = "kthreadd"
NAMESPACED, OF_A_MODULE = "crypto_cipher_setkey", "nft_register_chain_type"
DEPENDENCY = "nf_tables"
ALSO_SWAPINFO = frozenset({"KLP402"})


def _info(old: bytes, new: bytes) -> Edit:
    return lambda e: e.replace(".modinfo", old, new)


def _name_section(old: str, new: str) -> Edit:
    def edit(e: Editor) -> None:
        e.section(old).name = new

    return edit


def _place(symbol: str, **fields: int) -> Edit:
    def edit(e: Editor) -> None:
        for name, value in fields.items():
            e.object.symbols[e.symbol(symbol)][name] = value

    return edit


def _rename(old: str, new: str) -> Edit:
    return lambda e: e.rename(old, new)


def _flags(section: str, without: int) -> Edit:
    def edit(e: Editor) -> None:
        e.section(section).sh_flags &= ~without

    return edit


def _larger_module(e: Editor) -> None:
    found = e.section(".gnu.linkonce.this_module")
    found.data = bytes(found.data) + bytes(64)


def _plain(e: Editor) -> None:
    e.replace(".modinfo", b"livepatch=", b"livepatcx=")
    e.rename("klp_enable_patch", "si_meminfo")


def _writable(e: Editor) -> None:
    e.section(".text").sh_flags |= SHF.WRITE


def _bad_signature(data: bytes) -> bytes:
    """One that is longer than the file."""
    information = bytes((0, 0, 2, 0, 0, 0, 0, 0, 0x7F, 0, 0, 0))
    return data + information + b"~Module signature appended~\n"


def _no_strings(data: bytes) -> bytes:
    """The symbol table's sh_link is 0; the editor would write a sound one."""
    number = ElfFile(data, "good.ko").symtab
    assert number is not None
    return section_header(number.index, sh_link=0)(data)


def _no_entry(function: str) -> Edit:
    def edit(e: Editor) -> None:
        rows = e.rows(".rela.gnu.linkonce.this_module")
        (number,) = np.flatnonzero(rows["r_sym"] == e.symbol(function)).tolist()
        e.change_row(".rela.gnu.linkonce.this_module", number, r_type=R_NONE)

    return edit


def _crc(e: Editor) -> None:
    at = bytes(e.section("__versions").data).index(b"si_meminfo\0") - 8
    e.poke("__versions", at, b"\1\2\3\4")


def _dependency(e: Editor) -> None:
    """Without CRCs, for they differ between kernels."""
    e.section("__versions").name = "__lost"
    e.rename("si_meminfo", OF_A_MODULE)
    information = e.section(".modinfo")
    information.data = bytes(information.data).replace(b"depends=", b"depends=nf_tables")


def _weak(e: Editor) -> None:
    _place("si_meminfo", st_info=STB.WEAK << 4)(e)
    e.rename("si_meminfo", "klpbuild_is_nowhere")


def _namespaced(e: Editor) -> None:
    """Without CRCs, for the CRC is compared before the namespace."""
    e.section("__versions").name = "__lost"
    e.rename("si_meminfo", NAMESPACED)


def _two_objects(e: Editor) -> None:
    """The second one without functions: one function in two lists would crash the kernel."""
    e.twice("objects", "patch", 8)
    empty = e.add_data("empty", bytes(256))
    funcs = int(e.rows(".rela.data.twice")["r_offset"].max())
    number = int(np.flatnonzero(e.rows(".rela.data.twice")["r_offset"] == funcs)[0])
    e.change_row(".rela.data.twice", number, r_sym=empty, r_addend=0)


def _early(e: Editor) -> None:
    """A function of vmlinux calls what waits for the second object, which is not loaded."""
    _two_objects(e)
    called = e.add_data("called", b"button\0")
    rows = e.rows(".rela.data.twice")
    name = rows[rows["r_offset"] == rows["r_offset"].max()].copy()
    name["r_offset"] -= 8
    name["r_sym"] = called
    e.set_rows(".rela.data.twice", np.concatenate([rows, name]))
    rows = e.rows(VMLINUX_SECTION)
    waits = rows["r_sym"] == e.symbol(SWAPINFO)
    flags = SHF.ALLOC | SHF.INFO_LINK | SHF.RELA_LIVEPATCH
    e.object.add_relocations(BUTTON_SECTION, e.number(".text"), rows[waits], flags)
    e.set_rows(VMLINUX_SECTION, rows[~waits])
    e.rename(SWAPINFO, LID)


def _far_place(e: Editor) -> None:
    """A relocation far behind the section that it changes."""
    e.change_row(VMLINUX_SECTION, 0, r_offset=1 << 40)


def _nonzero(e: Editor) -> None:
    offset = int(e.rows(VMLINUX_SECTION)[0]["r_offset"])
    e.poke(".text", offset, b"\1")


def _type(kind: int, old: int) -> Edit:
    def edit(e: Editor) -> None:
        rows = e.rows(".rela.text")
        number = int(np.flatnonzero(rows["r_type"] == old)[0])
        e.change_row(".rela.text", number, r_type=kind)

    return edit


def _ordinary(e: Editor) -> None:
    rows = e.rows(VMLINUX_SECTION)
    e.set_rows(".rela.text", np.concatenate([e.rows(".rela.text"), rows[:1]]))
    e.set_rows(VMLINUX_SECTION, rows[1:])


def _rel(e: Editor) -> None:
    e.section(".rela.exit.text").sh_type = SHT.REL


def _target(section: str, target: str) -> Edit:
    def edit(e: Editor) -> None:
        rows = e.rows(section)
        rows["r_offset"] = 0
        e.set_rows(section, rows[:1])
        e.section(section).sh_info = e.number(target)

    return edit


def _arch(e: Editor) -> None:
    e.object.add_section(WritableSection(".klp.arch.vmlinux..altinstructions", SHT.PROGBITS))


def _no_new(e: Editor) -> None:
    number = e.row_at(".rela.data", "functions_vmlinux", 8)
    e.change_row(".rela.data", number, r_type=R_NONE)


def _position(number: int) -> Edit:
    def edit(e: Editor) -> None:
        start = int(e.object.symbols[e.symbol("functions_vmlinux")]["st_value"])
        e.poke(".data", start + 16, number.to_bytes(8, "little"))

    return edit


def _inside(e: Editor) -> None:
    """Nobody calls the function in the test, so nothing happens."""
    e.change_row(VMLINUX_SECTION, 0, r_addend=1)


def _no_return(e: Editor) -> None:
    e.change_row(".rela.return_sites", 0, r_addend=1)


def _stray(e: Editor) -> None:
    """A list in struct klp_object that does not begin as zeros."""
    start = int(e.object.symbols[e.symbol("objects")]["st_value"])
    e.poke(".data", start + 59, b".")


def _old(text: str) -> Edit:
    return lambda e: e.point("functions_vmlinux", 0, text)


def _object(text: str) -> Edit:
    return lambda e: e.point("objects", 0, text)


def _bad_entry(e: Editor) -> None:
    rows = e.rows(".rela__mcount_loc")
    e.change_row(".rela__mcount_loc", 0, r_addend=int(rows[0]["r_addend"]) + 1)


def _no_orc(e: Editor) -> None:
    e.section(".orc_unwind").name = ".orc_unwind_lost"
    e.section(".orc_unwind_ip").name = ".orc_unwind_ip_lost"


def _no_callback(e: Editor) -> None:
    number = e.row_at(".rela.data", "objects", 40)
    e.change_row(".rela.data", number, r_type=R_NONE)


def _annotated(e: Editor) -> None:
    e.rename("si_meminfo", ".klp.sym.rela.vmlinux.vmlinux.si_meminfo,0")


def _late_special(e: Editor) -> None:
    _target(BUTTON_SECTION, "__mcount_loc")(e)


def _meminfo(rule: str, edit: Edit, *also: str, not_tried: str = "") -> Broken:
    return Broken(rule, "meminfo", edited(edit), not_tried, frozenset(also))


def _button(rule: str, edit: Edit, *also: str, late: str = "") -> Broken:
    return Broken(rule, "button", edited(edit), "", frozenset(also), late)


BREAKS = (
    Broken("KLP101", "meminfo", lambda data: b"\x7fELG" + data[4:]),
    Broken("KLP102", "meminfo", header(e_type=2)),
    Broken("KLP103", "meminfo", header(e_machine=183)),
    Broken("KLP104", "meminfo", lambda data: data[:-100]),
    Broken("KLP105", "meminfo", header(e_shstrndx=0)),
    Broken("KLP106", "meminfo", section_header(0, sh_size=1)),
    Broken("KLP107", "meminfo", section_header(-1, sh_size=1 << 20)),
    Broken("KLP108", "meminfo", edited(lambda e: setattr(e.section(".symtab"), "sh_type", 1)),
           also=frozenset({"KLP110", "KLP501"})),
    _meminfo("KLP109", _name_section(".gnu.linkonce.this_module", ".this_module"), "KLP501"),
    _meminfo("KLP111", _larger_module),
    Broken("KLP110", "meminfo", edited(_far_place), dies="BUG: unable to handle page fault"),
    Broken("KLP112", "meminfo", section_header(1, sh_name=1 << 20)),
    Broken("KLP113", "meminfo", _no_strings),
    _meminfo("KLP114", _name_section(".comment", ".modinfo")),
    Broken("KLP115", "meminfo", lambda data: data[:4] + b"\1" + data[5:]),
    _meminfo("KLP116", _no_entry("init_module")),
    Broken("KLP117", "meminfo", edited(_no_entry("cleanup_module")), fresh=True, stays=True),
    _meminfo("KLP120", _name_section(".exit.text", ".text")),
    _meminfo("KLP202", _info(b" preempt ", b" preempx ")),
    _meminfo("KLP203", _info(b"vermagic=", b"vermagix=")),
    _meminfo("KLP205", _info(b"livepatch=", b"livepatcx=")),
    _meminfo("KLP206", _plain, not_tried="it is an ordinary module"),
    _meminfo("KLP207", _info(b"license=GPL", b"license=XYZ"), "KLP301"),
    _meminfo("KLP208", _info(b"retpoline=", b"retpolinx=")),
    _meminfo("KLP209", _rename("si_meminfo", OF_A_MODULE), "KLP303"),
    _meminfo("KLP211", _writable),
    Broken("KLP212", "meminfo", _bad_signature),
    Broken("KLP210", "meminfo", edited(_dependency), also=frozenset({"KLP304"}),
           before=(DEPENDENCY,)),
    _meminfo("KLP301", _rename("si_meminfo", "klpbuild_is_nowhere")),
    _meminfo("KLP302", _crc),
    _meminfo("KLP303", lambda e: e.replace("__versions", b"si_meminfo", b"si_memxnfo")),
    Broken("KLP304", "meminfo", edited(_name_section("__versions", "__lost")), fresh=True),
    _meminfo("KLP305", _namespaced, "KLP304"),
    _meminfo("KLP306", _place("si_meminfo", st_shndx=SHN_COMMON)),
    _meminfo("KLP307", _place("si_meminfo", st_shndx=0xFF30)),
    _meminfo("KLP308", _weak),
    _meminfo("KLP309", _annotated),
    _meminfo("KLP401", _name_section(VMLINUX_SECTION, ".klp.rela..text")),
    _meminfo("KLP402", _place(SWAPINFO, st_shndx=SHN_ABS), "KLP427"),
    _meminfo("KLP403", _rename(SWAPINFO, ".klp.sym.vmlinux.si_swapinfo")),
    _button("KLP404", _rename(LID, SWAPINFO), late="button"),
    _meminfo("KLP405", _rename(SWAPINFO, ".klp.sym.vmlinux.klpbuild_is_nowhere,0")),
    _meminfo("KLP406", _rename(SWAPINFO, f".klp.sym.vmlinux.{HOMONYM},0")),
    _meminfo("KLP407", _rename(SWAPINFO, f".klp.sym.vmlinux.{HOMONYM},99")),
    _meminfo("KLP408", _rename(SWAPINFO, LID)),
    _meminfo("KLP409", _flags(VMLINUX_SECTION, SHF.RELA_LIVEPATCH)),
    _meminfo("KLP410", _ordinary),
    _meminfo("KLP411", _flags(VMLINUX_SECTION, SHF.ALLOC)),
    _meminfo("KLP412", _target(VMLINUX_SECTION, ".comment"), "KLP427"),
    _button("KLP413", _target(BUTTON_SECTION, ".init.text"), "KLP414", "KLP427"),
    _meminfo("KLP414", _nonzero),
    _meminfo("KLP415", _type(99, 4)),
    _meminfo("KLP416", _type(10, 11)),
    _meminfo("KLP417", _rel, "KLP427", "KLP512"),
    _button("KLP418", _name_section(BUTTON_SECTION, ".klp.rela.ext4.text")),
    _button("KLP419", _late_special, "KLP414", "KLP427"),
    _meminfo("KLP420", _rename(SWAPINFO, f".klp.sym.vmlinux.{INIT},0")),
    _meminfo("KLP421", _arch),
    Broken("KLP422", "meminfo", edited(_no_return), fresh=True),
    _meminfo("KLP423", _inside),
    _button("KLP430", _rename(LID, f".klp.sym.{DEPENDENCY}.{OF_A_MODULE},0"), late="button"),
    Broken("KLP431", "meminfo", edited(_early), also=frozenset({"KLP602"}), uses="/proc/meminfo",
           dies="Kernel stack is corrupted"),
    _meminfo("KLP501", _place("objects", st_size=0)),
    _button("KLP502", _object("but-ton"), "KLP418"),
    _meminfo("KLP503", _no_new),
    _meminfo("KLP504", _two_objects),
    _meminfo("KLP505", lambda e: e.twice("functions_vmlinux", "objects", 8)),
    _meminfo("KLP506", _old("x" * 600)),
    _button("KLP507", _object("klpbuild_is_nowhere"), "KLP418"),
    _meminfo("KLP508", _old("klpbuild_is_nowhere")),
    _meminfo("KLP509", _old(HOMONYM)),
    _meminfo("KLP510", _position(7)),
    _meminfo("KLP511", _old(NOTRACE)),
    Broken("KLP512", "meminfo", edited(_bad_entry), fresh=True),
    Broken("KLP513", "meminfo", edited(_stray), dies="BUG: unable to handle page fault"),
    _meminfo("KLP601", _no_orc),
    _button("KLP602", _no_callback, late="button again"),
    _meminfo("KLP609", _old(INLINED)),
    Broken("KLP610", "meminfo", edited(_old(THREAD)), waits=True),
    _meminfo("KLP603", _old("__schedule"), "KLP508", "KLP511"),
)  # fmt: skip
