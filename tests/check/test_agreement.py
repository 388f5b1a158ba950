"""What other tools and random changes make of a good livepatch: check and the kernel agree.

The changes are those on which they once did not.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Severity
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import rela_dtype, symbol_dtype
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import Group, Insmod
from tests.check.agreement import clean_up, disagreements
from tests.check.editor import Editor, header, section_header
from tests.samples import Built

pytestmark = pytest.mark.kernel

#: What people do to modules.  ``x.ko`` is the module; a tool that refuses it says so.
TOOLS = {
    "strip-debug": "strip --strip-debug x.ko",
    "strip-unneeded": "strip --strip-unneeded x.ko",
    "strip-all": "strip x.ko",
    "discard-all": "strip --strip-debug --discard-all x.ko",
    "objcopy": "objcopy x.ko",
    "compress-debug": "objcopy --compress-debug-sections x.ko",
    "remove-note": "objcopy -R .note.gnu.build-id x.ko",
    "remove-orc": "objcopy -R .orc_unwind -R .orc_unwind_ip x.ko",
    "remove-mcount": "objcopy -R __mcount_loc x.ko",
    "remove-versions": "objcopy -R __versions x.ko",
    "remove-modinfo": "objcopy -R .modinfo x.ko",
    "localize": "objcopy --localize-symbol=init_module x.ko",
    "weaken": "objcopy --weaken x.ko",
    "prefix": "objcopy --prefix-symbols=p_ x.ko",
    "rename-text": "objcopy --rename-section .text=.text.patched x.ko",
    "writable": "objcopy --set-section-flags .text=alloc,code,contents x.ko",
}


def made_by_tools(data: bytes, directory: Path) -> Iterator[tuple[str, bytes]]:
    for name, command in TOOLS.items():
        path = directory / "x.ko"
        path.write_bytes(data)
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
        yield name, path.read_bytes()


def _symbol(name: str, **fields: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        elf, changed = ElfFile(data, "good.ko"), bytearray(data)
        assert elf.symtab is not None
        count = len(elf.symbols)
        rows = np.frombuffer(changed, symbol_dtype("<"), count, elf.symtab.sh_offset)
        number = next(s.index for s in elf.symbol_list if s.name == name)
        for field, value in fields.items():
            rows[number][field] = value
        return bytes(changed)

    return change


def _relocation(section: str, symbol: str, offset: int, **fields: int) -> Callable[[bytes], bytes]:
    """A change of the relocation that a variable holds at an offset."""

    def change(data: bytes) -> bytes:
        elf, changed = ElfFile(data, "good.ko"), bytearray(data)
        found = elf.section(section)
        assert found is not None
        rows = np.frombuffer(changed, rela_dtype("<"), found.sh_size // 24, found.sh_offset)
        start = next(s.st_value for s in elf.symbol_list if s.name == symbol)
        (number,) = np.flatnonzero(rows["r_offset"] == start + offset).tolist()
        for field, value in fields.items():
            rows[number][field] = value
        return bytes(changed)

    return change


def _section(name: str, flip: int = 0, **fields: int) -> Callable[[bytes], bytes]:
    """A change of a section's header; `flip` of its flags."""

    def change(data: bytes) -> bytes:
        found = ElfFile(data, "good.ko").section(name)
        assert found is not None
        flags = {"sh_flags": found.sh_flags ^ flip} if flip else {}
        return section_header(found.index, **flags, **fields)(data)

    return change


def _target(section: str, target: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        return _section(section, sh_info=Editor(data).number(target))(data)

    return change


LIVEPATCH = int(SHF.RELA_LIVEPATCH)
ALLOC = int(SHF.ALLOC)

#: Name to the sample and what is done to it.
CHANGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no-such-section": ("meminfo", _symbol("init_module", st_shndx=50)),
    "flagged-data": ("button", _section(".data", LIVEPATCH)),
    "flagged-data-of-vmlinux": ("meminfo", _section(".data", LIVEPATCH)),
    "into-modinfo": ("meminfo", _target(".rela.exit.data", ".modinfo")),
    "into-symbols": ("meminfo", _target(".rela.text", ".symtab")),
    "modinfo-aside": ("meminfo", _section(".modinfo", ALLOC)),
    "versions-aside": ("meminfo", _section("__versions", ALLOC)),
    "symbols-without-names": ("meminfo", _section(".symtab", sh_link=0)),
    "this-module-aside": ("meminfo", _section(".gnu.linkonce.this_module", sh_name=1)),
    "sizes-of-headers": ("meminfo", header(e_shentsize=56)),
    "32-bit": ("meminfo", lambda data: data[:4] + b"\1" + data[5:]),
    "big-endian": ("meminfo", lambda data: data[:5] + b"\2" + data[6:]),
    "header-size": ("meminfo", header(e_ehsize=0, e_version=7, e_flags=9)),
    "short": ("meminfo", lambda data: data[:60]),
    "no-mod": ("meminfo", _relocation(".rela.data", "patch", 0, r_type=0)),
    "no-objs": ("meminfo", _relocation(".rela.data", "patch", 8, r_type=0)),
    "weak-init": ("meminfo", _symbol("init_module", st_info=0x22)),
}
#: What only newer kernels look at.
CHANGES_6_12: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "names-of-another-type": ("meminfo", _section(".strtab", sh_type=1)),
    "section-names-of-another-type": ("meminfo", _section(".shstrtab", sh_type=1)),
}


def changed(good: dict[str, bytes], newest: bool) -> Iterator[tuple[str, tuple[str, bytes]]]:
    for name, (base, change) in (CHANGES | (CHANGES_6_12 if newest else {})).items():
        yield name, (base, change(good[base]))


def judge(built: Built, directory: Path) -> None:
    good = {name: built.module(name).read_bytes() for name in ("meminfo", "button")}
    modules = dict(changed(good, built.kernel.version >= (6, 12, 0)))
    for base, data in good.items():
        for name, result in made_by_tools(data, directory):
            modules[f"{base}-{name}"] = (base, result)
    found = disagreements(built, modules, directory)
    assert found == "", found


@pytest.mark.boot
def test_check_and_kernel_agree(debian_samples: Built, tmp_path: Path) -> None:
    judge(debian_samples, tmp_path)


@pytest.mark.boot
def test_check_and_the_newest_kernel_agree(newest_samples: Built, tmp_path: Path) -> None:
    judge(newest_samples, tmp_path)


@pytest.mark.boot
def test_the_kernels_own_livepatches(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    """lib/livepatch: what the kernel's developers test livepatching with, built by kbuild."""
    kernel = debian_source_kernel
    names = []
    for source in sorted(source_tree(kernel).glob("lib/livepatch/*.c")):
        (tmp_path / source.name).write_bytes(source.read_bytes())
        names.append(source.stem)
    lines = [f"obj-m += {name}.o\n" for name in names]
    (tmp_path / "Makefile").write_text("".join(lines))
    command = ["make", "-s", "-j2", "-C", str(kernel.build), f"M={tmp_path}", "modules"]
    subprocess.run(command, check=True, capture_output=True)

    side, groups, patching = KernelSide(kernel, None), [], set()
    for name in names:
        path = tmp_path / f"{name}.ko"
        report = check_bytes(path.read_bytes(), path.name, side)
        assert report.would_load
        wrong = {f.rule.identifier for f in report.at_least(Severity.WARNING)}
        assert wrong <= {"KLP206", "KLP507"}, (name, report.findings)
        patching |= set() if "KLP206" in wrong else {name}
        groups.append(Group(name, (Insmod(path), *clean_up(name))))
    assert {"test_klp_livepatch", "test_klp_atomic_replace", "test_klp_state"} <= patching
    assert {"test_klp_shadow_vars", "test_klp_callbacks_busy"}.isdisjoint(patching)
    results = Guest(kernel, tmp_path).run(groups)
    assert {r.group.name: r.problem for r in results if not r.passed} == {}


def test_shipped_modules_are_sound(debian_kernel: Kernel, tmp_path: Path) -> None:
    """The kernel loads them; what is found is that they are no livepatches."""
    side = KernelSide(debian_kernel, None)
    for path in debian_kernel.modules[::25]:
        report = check_bytes(path.read_bytes(), str(path), side)
        assert report.would_load, path
        wrong = {f.rule.identifier for f in report.at_least(Severity.WARNING)}
        assert wrong == {"KLP206"}, (path, report.findings)
