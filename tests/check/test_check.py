"""Each rule is found in a module that breaks it, and in none that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klpbuild.check import catalogue
from klpbuild.check.catalogue import RULES
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect, Needs, Severity
from klpbuild.elf.constants import SHF, SHN_ABS, SHT, STB, STT
from klpbuild.elf.writer import WritableSection
from klpbuild.errors import KlpError
from tests.check.breaks import BREAKS, BUTTON_SECTION, LID, OF_A_MODULE, THREAD
from tests.check.editor import R_64, Broken, Editor, header
from tests.check.kernels import IMPORTS, TWIN, crc_of

#: Rules that no file of this kernel can break.
NOT_HERE = {
    "KLP201": "another configuration",
    "KLP204": "another configuration",
    "KLP118": "tests/check/test_words.py",
    "KLP119": "tests/check/test_sites.py",
    "KLP424": "tests/check/test_sites.py",
    "KLP425": "tests/check/test_sites.py",
    "KLP426": "tests/check/test_sites.py",
    "KLP427": "tests/check/test_sites.py",
    "KLP428": "tests/check/test_sites.py",
    "KLP432": "tests/check/test_loaders.py",
    "KLP433": "tests/check/test_loaders.py",
    "KLP434": "tests/check/test_loaders.py",
    "KLP604": "below",
    "KLP605": "tests/check/test_explain.py",
}


def identifiers(data: bytes, side: KernelSide | None) -> set[str]:
    report = check_bytes(data, "livepatch.ko", side)
    return {f.rule.identifier for f in report.findings}


@pytest.mark.parametrize("name", ["meminfo", "button"])
def test_a_good_livepatch_is_clean(
    miniature: KernelSide, good: dict[str, bytes], name: str
) -> None:
    report = check_bytes(good[name], "livepatch.ko", miniature)
    assert report.findings == ()
    assert {u.rule.needs for u in report.unchecked} == {Needs.SYSTEM}
    assert report.summary.startswith("Linux 6.1.0-miniature would load it: nothing found, ")
    assert identifiers(good[name], None) == set()


def newer(side: KernelSide) -> KernelSide:
    """The miniature kernel as Linux 6.12, whose modules have another struct module."""
    return KernelSide(replace(side.kernel, version=(6, 12, 0)), side.kernel.build / "symbols.klp")


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: str(broken.rule))
def test_a_broken_one_is_found(
    miniature: KernelSide, good: dict[str, bytes], broken: Broken
) -> None:
    (rule,) = [each for each in RULES if each.identifier == broken.rule]
    side = miniature if rule.holds_for(miniature.version) else newer(miniature)
    found = identifiers(broken.change(good[broken.base]), side)
    assert broken.rule in found
    assert found - {broken.rule} <= broken.also


def test_every_rule_has_a_test() -> None:
    tested = {broken.rule for broken in BREAKS} | set(NOT_HERE)
    of_the_file = {r.identifier for r in RULES if r.needs is not Needs.SYSTEM}
    assert tested == of_the_file


def test_rules_are_distinct_and_say_what_to_do() -> None:
    assert len({rule.identifier for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.title and rule.why and rule.hint, rule.identifier
        assert rule.says or rule.effect not in (Effect.LATE, Effect.WARNED), rule.identifier
        assert [w.since for w in rule.says] == sorted(w.since for w in rule.says)


def test_a_dependency_is_a_note(miniature: KernelSide, good: dict[str, bytes]) -> None:
    editor = Editor(good["meminfo"])
    editor.rename("si_meminfo", OF_A_MODULE)
    info = bytes(editor.section(".modinfo").data).replace(b"depends=", b"depends=nf_tables")
    editor.section(".modinfo").data = info
    versions = bytes(editor.section("__versions").data)
    at = versions.index(b"si_meminfo\0") - 8
    entry = crc_of(OF_A_MODULE).to_bytes(8, "little") + OF_A_MODULE.encode().ljust(56, b"\0")
    editor.poke("__versions", at, entry)
    report = check_bytes(editor.data(), "livepatch.ko", miniature)
    assert [f.rule.identifier for f in report.findings] == ["KLP210"]
    assert report.findings[0].rule.severity is Severity.NOTE
    assert "would load it: 1 note" in report.summary


def configured(side: KernelSide, directory: Path, old: str, new: str) -> KernelSide:
    """The miniature kernel with another configuration."""
    config = directory / ".config"
    config.write_text(side.kernel.config.read_text().replace(old, new))
    return KernelSide(replace(side.kernel, config=config), directory / "symbols.klp")


def test_signatures_where_they_are_forced(
    miniature: KernelSide, good: dict[str, bytes], tmp_path: Path
) -> None:
    symbols = miniature.kernel.build / "symbols.klp"
    (tmp_path / "symbols.klp").write_bytes(symbols.read_bytes())
    side = configured(miniature, tmp_path, "CONFIG_LIVEPATCH=y", "CONFIG_MODULE_SIG_FORCE=y")
    assert identifiers(good["meminfo"], side) == {"KLP201", "KLP204"}
    report = check_bytes(signed(good["meminfo"], b"\x30message"), "livepatch.ko", side)
    assert {f.rule.identifier for f in report.findings} == {"KLP204"}
    assert "whether the kernel knows the key is in its keyrings" in {
        u.why for u in report.unchecked
    }


def signed(data: bytes, message: bytes, *, size: int | None = None, kind: int = 2) -> bytes:
    """A module with a signature behind it, as scripts/sign-file writes it."""
    length = len(message) if size is None else size
    information = bytes((0, 0, kind, 0, 0, 0, 0, 0)) + length.to_bytes(4, "big")
    return data + message + information + b"~Module signature appended~\n"


@pytest.mark.parametrize(
    ("message", "size", "kind", "what"),
    [
        (b"\x30message", None, 2, None),
        (b"message", None, 2, "its signature is no PKCS#7 message"),
        (b"\x30message", None, 1, None),
        (b"", 1 << 24, 2, "its signature has 16,777,216 bytes, more than there are"),
    ],
)
def test_signatures_that_cannot_be_read(
    miniature: KernelSide,
    good: dict[str, bytes],
    message: bytes,
    size: int | None,
    kind: int,
    what: str | None,
) -> None:
    data = signed(good["meminfo"], message, size=size, kind=kind)
    found = check_bytes(data, "livepatch.ko", miniature).findings
    assert [f.what for f in found] == ([what] if what else [])
    assert {f.rule.identifier for f in found} <= {"KLP212"}


def test_forced_loading_decides_what_the_kernel_does(
    miniature: KernelSide, good: dict[str, bytes], tmp_path: Path
) -> None:
    """Without CONFIG_MODULE_FORCE_LOAD a module without CRCs is refused."""
    symbols = miniature.kernel.build / "symbols.klp"
    (tmp_path / "symbols.klp").write_bytes(symbols.read_bytes())
    side = configured(miniature, tmp_path, "CONFIG_MODULE_FORCE_LOAD=y", "")
    (without,) = [b for b in BREAKS if b.rule == "KLP304"]
    data = without.change(good["meminfo"])
    (loose,) = check_bytes(data, "x.ko", miniature).findings
    (strict,) = check_bytes(data, "x.ko", side).findings
    assert (loose.effect, strict.effect) == (Effect.WARNED, Effect.REFUSED)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ((6, 1), "Skipping invalid relocation target, existing value is nonzero for type 4"),
        ((6, 12), "Invalid relocation target, existing value is nonzero for"),
    ],
)
def test_the_kernels_words_change(version: tuple[int, int], says: str) -> None:
    assert catalogue.NONZERO.message(version, {"type": 4}) == f"x86/modules: {says}"


def test_rules_come_and_go() -> None:
    assert not catalogue.MODULE_SIZE.holds_for((6, 1))
    assert catalogue.MODULE_SIZE.holds_for((6, 12))
    assert catalogue.LOAD_AGAIN.holds_for((6, 1))
    assert not catalogue.LOAD_AGAIN.holds_for((6, 3))
    assert catalogue.LOAD_AGAIN.holds_for(None)


def test_long_names_depend_on_the_version(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """Linux 6.1 looks up names of 511 bytes, 6.0 of 127."""
    editor = Editor(good["meminfo"])
    editor.point("functions_vmlinux", 0, "x" * 200)
    old = KernelSide(replace(miniature.kernel, version=(6, 0, 0)), None)
    new = KernelSide(miniature.kernel, None)
    assert identifiers(editor.data(), old) == {"KLP506"}
    assert identifiers(editor.data(), new) == set()


def test_a_position_that_changes(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """While the module loads there are two of the name, once it runs there is one."""
    editor = Editor(good["button"])
    editor.rename(LID, f".klp.sym.button.{TWIN},2")
    assert identifiers(editor.data(), miniature) == {"KLP604"}
    editor = Editor(good["button"])
    editor.rename(LID, f".klp.sym.button.{TWIN},1")
    assert identifiers(editor.data(), miniature) == {"KLP420"}


def test_code_that_uses_the_livepatchs_own_start(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    editor = Editor(good["meminfo"])
    (number, *_) = np.flatnonzero(editor.rows(".rela.text")["r_sym"] == editor.symbol("si_meminfo"))
    editor.change_row(".rela.text", int(number), r_sym=editor.symbol("init_module"))
    assert "KLP420" in identifiers(editor.data(), miniature)
    assert "KLP420" not in identifiers(good["meminfo"], miniature)


@pytest.mark.parametrize(
    ("kind", "value", "effect"),
    [
        (11, 1 << 31, Effect.REFUSED),
        (11, 0xFFFFFFFF80000000, None),
        (4, 1 << 40, Effect.ACCEPTED),
        (4, 0x1F000, None),
    ],
)
def test_addresses_that_do_not_fit(
    miniature: KernelSide, good: dict[str, bytes], kind: int, value: int, effect: Effect | None
) -> None:
    """The kernel checks R_X86_64_32S, and lets a far R_X86_64_PLT32 wrap around."""
    editor = Editor(good["meminfo"])
    symbol = editor.object.add_symbol(
        "far_away", bind=STB.GLOBAL, type=STT.NOTYPE, st_shndx=SHN_ABS, st_value=value
    )
    rows = editor.rows(".rela.text")
    number = int(np.flatnonzero(rows["r_type"] == kind)[-1])
    editor.change_row(".rela.text", number, r_sym=symbol, r_addend=0)
    report = check_bytes(editor.data(), "livepatch.ko", miniature)
    found = [f.effect for f in report.findings if f.rule.identifier == "KLP416"]
    assert found == ([effect] if effect else [])


def test_long_names_have_their_crcs_elsewhere(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    """CONFIG_EXTENDED_MODVERSIONS: an array of numbers and one of texts."""
    editor = Editor(good["meminfo"])
    versions = editor.section("__versions")
    versions.data = bytes(64)
    crcs = b"".join(crc_of(name).to_bytes(4, "little") for name in IMPORTS)
    for name, data in (("crcs", crcs), ("names", "\0".join(IMPORTS).encode() + b"\0")):
        section = WritableSection(f"__version_ext_{name}", SHT.PROGBITS, SHF.ALLOC, data=data)
        editor.object.add_section(section)
    assert identifiers(editor.data(), miniature) == set()


def test_a_broken_kernel_is_not_the_modules_fault(
    miniature: KernelSide, good: dict[str, bytes], tmp_path: Path
) -> None:
    symvers = tmp_path / "Module.symvers"
    symvers.write_text("nonsense\n")
    side = KernelSide(replace(miniature.kernel, module_symvers=symvers), None)
    with pytest.raises(KlpError, match=r"is not a line of Module\.symvers"):
        identifiers(good["meminfo"], side)


@pytest.mark.parametrize("name", ["__ex_table", ".altinstr_replacement", ".init_array"])
def test_what_is_read_at_once_cannot_wait(
    miniature: KernelSide, good: dict[str, bytes], name: str
) -> None:
    editor = Editor(good["button"])
    section = WritableSection(name, SHT.PROGBITS, SHF.ALLOC, sh_addralign=8, data=bytes(64))
    editor.section(BUTTON_SECTION).sh_info = editor.object.add_section(section)
    rows = editor.rows(BUTTON_SECTION)[:1]
    rows["r_offset"] = 0
    editor.set_rows(BUTTON_SECTION, rows)
    assert "KLP419" in identifiers(editor.data(), miniature)


def test_a_parameter_is_read_whatever_is_loaded(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    editor = Editor(good["button"])
    section = WritableSection("__param", SHT.PROGBITS, SHF.ALLOC, sh_addralign=8, data=bytes(64))
    editor.section(BUTTON_SECTION).sh_info = editor.object.add_section(section)
    rows = editor.rows(BUTTON_SECTION)[:1]
    rows["r_offset"], rows["r_type"] = 32, R_64
    editor.set_rows(BUTTON_SECTION, rows)
    assert "KLP431" in identifiers(editor.data(), miniature)


def test_symbols_of_a_foreign_module(miniature: KernelSide, good: dict[str, bytes]) -> None:
    editor = Editor(good["button"])
    editor.rename(LID, ".klp.sym.foreign.anything,0")
    report = check_bytes(editor.data(), "livepatch.ko", miniature)
    assert [f.rule.identifier for f in report.findings] == ["KLP430"], "button does not need it"
    assert "the symbols of foreign are not at hand" in {u.why for u in report.unchecked}


def test_what_has_no_model_is_not_checked(good: dict[str, bytes]) -> None:
    """A table that leads astray is found for x86-64, and not passed over for another machine."""
    (astray,) = [b for b in BREAKS if b.rule == "KLP422"]
    data = astray.change(good["meminfo"])
    here, there = (check_bytes(d, "x.ko", None) for d in (data, header(e_machine=183)(data)))
    assert "KLP422" in {f.rule.identifier for f in here.findings}
    assert "KLP422" not in here.unchecked_rules
    assert "KLP422" not in {f.rule.identifier for f in there.findings}
    assert here.unchecked_rules - {"KLP602"} < there.unchecked_rules
    why = "what the kernel does there is not known for aarch64"
    only = {u.rule.identifier for u in there.unchecked if u.why == why}
    assert only == {
        r.identifier for r in RULES if r.machines and 183 not in r.machines and not r.needs
    }
    held = [rule for rule in RULES if rule.holds_for(None, 183)]
    assert there.checked == len(held) - len(there.unchecked_rules)


def test_rules_of_other_machines_do_not_hold(good: dict[str, bytes]) -> None:
    report = check_bytes(good["meminfo"], "x.ko", None)
    assert not {"KLP432", "KLP433", "KLP434"} & report.unchecked_rules


def test_tables_that_are_not_there_are_not_checked(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    (unseen,) = [b for b in BREAKS if b.rule == "KLP501"]
    report = check_bytes(unseen.change(good["meminfo"]), "x.ko", miniature)
    assert {"KLP508", "KLP511", "KLP513", "KLP609", "KLP610"} <= report.unchecked_rules
    held = [rule for rule in RULES if rule.holds_for(miniature.version)]
    assert report.checked == len(held) - len(report.unchecked_rules)


def test_functions_of_a_foreign_module(miniature: KernelSide, good: dict[str, bytes]) -> None:
    (foreign,) = [b for b in BREAKS if b.rule == "KLP507"]
    report = check_bytes(foreign.change(good["button"]), "x.ko", miniature)
    where = "klpbuild_is_nowhere:param_get_lid_init_state"
    assert {("KLP508", where), ("KLP511", where)} <= {
        (u.rule.identifier, u.about) for u in report.unchecked
    }
    object_rules = {u.rule.identifier for u in report.unchecked if u.about == "klpbuild_is_nowhere"}
    assert {"KLP609", "KLP610"} <= object_rules


def test_a_thread_that_the_author_accepts(miniature: KernelSide, good: dict[str, bytes]) -> None:
    (stays,) = [b for b in BREAKS if b.rule == "KLP610"]
    (finding,) = check_bytes(stays.change(good["meminfo"]), "x.ko", miniature).findings
    assert finding.where == f"vmlinux:{THREAD}"
    assert finding.what == (
        f"{THREAD} is replaced, and a kernel thread stays in it: rest_init() starts one with it"
    )
    assert finding.hint == (
        "Change a function that it calls.  If none runs when the livepatch is loaded, accept it:\n"
        f'--accept-thread {THREAD}, or accept_threads = ["{THREAD}"] in livepatch.toml.'
    )
    editor = Editor(stays.change(good["meminfo"]))
    information = editor.section(".modinfo")
    information.data = bytes(information.data) + f"klpbuild_accept_thread={THREAD}\0".encode()
    assert check_bytes(editor.data(), "x.ko", miniature).findings == ()


def test_without_vmlinux_threads_are_not_known(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    side = KernelSide(
        replace(miniature.kernel, vmlinux=None), miniature.kernel.build / "symbols.klp"
    )
    (unchecked,) = [
        u
        for u in check_bytes(good["meminfo"], "x.ko", side).unchecked
        if u.rule.identifier == "KLP610"
    ]
    assert (unchecked.about, unchecked.why) == ("vmlinux", "the kernel's code is not at hand")
