"""Pairs of objects for extraction: C compiled twice, with the kernel's tables in miniature."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klpbuild.arch import X86_64, Architecture
from klpbuild.elf.reader import ElfFile, Section, Symbol
from klpbuild.elf.vartypes import VariableType, variable_types
from klpbuild.errors import KlpError
from klpbuild.extract.extraction import extract as extract_from
from klpbuild.extract.extraction import extract_part, keep_all_keys
from klpbuild.extract.linkage import link
from klpbuild.extract.moves import settle_moved
from klpbuild.extract.part import Part, VariableTypes, no_types
from klpbuild.extract.result import Extraction, KeyPolicy
from klpbuild.extract.sharing import local_variables, shared_otherwise
from klpbuild.extract.sizes import EntrySizes
from klpbuild.names import VMLINUX
from klpbuild.patch.named import with_globals, with_names

#: As 6.1 has them.
SIZES = EntrySizes(
    alt_instr=12,
    alt_replacement_length=11,
    bug_entry=12,
    bug_line=8,
    exception_table_entry=12,
    jump_entry=16,
    jump_key=8,
    static_key=16,
    paravirt_patch_site=16,
)

FLAGS = [
    *("-O2", "-std=gnu11", "-ffreestanding", "-fno-pic", "-mno-red-zone", "-fno-common"),
    *("-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-stack-protector"),
    *("-fno-jump-tables", "-fno-ipa-icf", "-ffunction-sections", "-fdata-sections"),
    *("-pg", "-mfentry", "-mrecord-mcount"),
]

#: The kernel's macros that fill tables, in their 6.1 shapes.
KERNEL = r"""
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function))
#define __init __attribute__((section(".init.text"), cold, no_instrument_function))
#define __exit __attribute__((section(".exit.text"), cold, no_instrument_function, used))
#define __initdata __attribute__((section(".init.data")))
#define __sched __attribute__((section(".sched.text")))
#define __read_mostly __attribute__((section(".data..read_mostly")))
#define __used __attribute__((used))
#define NULL ((void *)0)
typedef unsigned long ulong;
#define WARN() asm volatile("1: ud2\n" \
    ".pushsection __bug_table, \"aw\"\n2: .long 1b - .\n .long %c0 - .\n" \
    ".word %c1\n .word %c2\n .org 2b + 12\n.popsection" \
    :: "i" (__FILE__), "i" (__LINE__), "i" (1))
#define ALTERNATIVE(old, new, feature) asm volatile( \
    "661: " old "\n662:\n.pushsection .altinstructions, \"a\"\n" \
    ".long 661b - .\n .long 663f - .\n .word " #feature "\n .byte 662b - 661b\n" \
    ".byte 664f - 663f\n.popsection\n.pushsection .altinstr_replacement, \"ax\"\n" \
    "663: " new "\n664:\n.popsection" ::: "memory")
#define LOAD_SAFELY(to, from) asm volatile( \
    "1: mov %1, %0\n2:\n.pushsection __ex_table, \"a\"\n.balign 4\n" \
    ".long 1b - .\n .long 2b - .\n .long 3\n.popsection" : "=r" (to) : "m" (from))
struct static_key { int enabled; void *entries; };
struct tracepoint { const char *name; struct static_key key; };
static inline __attribute__((always_inline)) int static_branch(struct static_key *key)
{
    asm goto("1: jmp %l[yes]\n.pushsection __jump_table, \"aw\"\n.balign 8\n"
         ".long 1b - .\n .long %l[yes] - .\n .quad %c0 + 2 - .\n.popsection"
         :: "i" (key) :: yes);
    return 0;
yes:
    return 1;
}
"""


def extract(
    original: ElfFile,
    patched: ElfFile,
    *,
    entry_sizes: EntrySizes,
    arch: Architecture,
    in_module: bool = False,
    key_policy: KeyPolicy = keep_all_keys,
    renewed: frozenset[str] = frozenset(),
    types: VariableTypes = no_types,
    accepted_data: Collection[str] = (),
) -> Extraction:
    """Extract what changed between two versions of ``code.c``, alone in a livepatch."""
    part = Part(
        number=0,
        owner="a_module" if in_module else VMLINUX,
        where=f"code.c:{original.name}",
        original=original,
        patched=patched,
        source="code.c",
        sizes=entry_sizes,
        types=types,
        accepted_data=accepted_data,
    )
    return extract_from(part, arch, key_policy, renewed)


@dataclass
class Pair:
    """A source file in two versions, compiled.

    :ivar changes: texts to replace in the original, each found exactly once.
    """

    directory: Path
    source: str
    changes: dict[str, str]
    flags: list[str] = field(default_factory=list)

    def patched_source(self) -> str:
        text = self.source
        for old, new in self.changes.items():
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
            text = text.replace(old, new)
        return text

    def objects(self, original: str, patched: str) -> tuple[ElfFile, ElfFile]:
        """Compile both versions, references as extraction wants them."""
        texts = {"original": original, "patched": patched}
        elfs = [ElfFile.read(self.compile(version, text)) for version, text in texts.items()]
        sections = shared_otherwise(*elfs)
        for place, version in enumerate(texts):
            if names := local_variables(elfs[place], sections):
                assembly = self.compile(version, texts[version], "-S", output="named.s")
                output = assembly.with_suffix(".o")
                assembly.write_text(with_globals(assembly.read_text(), names))
                subprocess.run(["gcc", "-c", assembly, "-o", output], check=True)
                elfs[place] = ElfFile(with_names(elfs[place], ElfFile.read(output), names), "")
            elfs[place].name = "code.o"
        return elfs[0], elfs[1]

    def compile(self, version: str, text: str, *flags: str, output: str = "code.o") -> Path:
        directory = self.directory / version
        directory.mkdir(exist_ok=True)
        (directory / "code.c").write_text(f'#line 1 "kernel.h"\n{KERNEL}\n#line 1 "code.c"\n{text}')
        command = ["gcc", *FLAGS, *self.flags, *flags, "-c", "code.c", "-o", output]
        subprocess.run(command, cwd=directory, check=True)
        return directory / output

    def extract(
        self,
        *,
        in_module: bool = False,
        key_policy: KeyPolicy = keep_all_keys,
        renewed: frozenset[str] = frozenset(),
        accepted_data: tuple[str, ...] = (),
    ) -> Extraction:
        texts = self.source, self.patched_source()
        return extract(
            *self.objects(*texts),
            entry_sizes=SIZES,
            arch=X86_64,
            in_module=in_module,
            key_policy=key_policy,
            renewed=renewed,
            accepted_data=accepted_data,
            types=lambda patched: self.types(texts[patched]),
        )

    def types(self, text: str) -> dict[str, VariableType]:
        """The types of the variables of one version."""
        return variable_types(ElfFile.read(self.compile("types", text, "-g", "-gdwarf-5")))

    def refusal(self, **arguments: Any) -> str:
        """The text of the error that extraction ends with; offsets in code are ``+N``."""
        try:
            found = self.extract(**arguments)
        except KlpError as error:
            return re.sub(r"code at \+0x[0-9a-f]+", "code at +N", str(error))
        raise AssertionError(f"not refused: {found.changed} {found.included}")


@dataclass
class Patch:
    """Several source files in two versions, compiled: the objects of one patch.

    :ivar files: by name, the original and the patched source.
    :ivar owners: the module of each file that is not part of vmlinux.
    :ivar kernel: global symbols of objects that the patch leaves alone, and whether each is weak;
        those of a module as ``module:name``.
    :ivar weak: weak functions in the source, and their files.
    """

    directory: Path
    files: dict[str, tuple[str, str]]
    owners: dict[str, str] = field(default_factory=dict)
    kernel: dict[str, bool] = field(default_factory=dict)
    weak: dict[str, str] = field(default_factory=dict)

    def extract(self) -> dict[str, Extraction]:
        """The extraction of each file, by its name."""
        parts = [self.part(name, number) for number, name in enumerate(self.files)]
        link(
            parts,
            lambda owner, name: self.kernel.get(self._key(owner, name)),
            lambda name: self.weak.get(name, ""),
        )
        settle_moved(parts)
        return {p.source: extract_part(p, X86_64) for p in parts}

    def refusal(self) -> str:
        """The text of the error that extraction ends with."""
        try:
            found = self.extract()
        except KlpError as error:
            return str(error)
        raise AssertionError(f"not refused: {[e.included for e in found.values()]}")

    def _key(self, owner: str, name: str) -> str:
        return name if owner == VMLINUX else f"{owner}:{name}"

    def part(self, name: str, number: int = 0) -> Part:
        """Compile one file in both versions."""
        directory = self.directory / name.removesuffix(".c")
        directory.mkdir(parents=True)
        pair = Pair(directory, self.files[name][0], {})
        original, patched = pair.objects(*self.files[name])
        return Part(
            number=number,
            owner=self.owners.get(name, VMLINUX),
            where=f"{name}:{name[:-2]}.o",
            original=original,
            patched=patched,
            source=name,
            sizes=SIZES,
            types=lambda patched: pair.types(self.files[name][patched]),
        )


class Extracted:
    """An extraction, written and read again."""

    def __init__(self, extraction: Extraction) -> None:
        self.extraction = extraction
        self.elf = ElfFile(extraction.object, "extracted.o")

    @property
    def changed(self) -> list[str]:
        return [function.name for function in self.extraction.changed]

    @property
    def undefined(self) -> set[str]:
        return {s.name for s in self.elf.symbol_list[1:] if s.st_shndx == 0}

    @property
    def defined(self) -> dict[str, Symbol]:
        return {
            s.name: s for s in self.elf.symbol_list if s.is_defined and s.name[:2] not in ("", ".L")
        }

    def targets(self, section: str) -> list[tuple[str, int]]:
        """What a section's relocations lead to: symbol or section name, and addend."""
        found = []
        for relocations in self.elf.relocation_sections:
            if self.elf.sections[relocations.sh_info].name == section:
                for row in self.elf.relocations(relocations):
                    symbol = self.elf.symbol(int(row["r_sym"]))
                    name = symbol.name or self.elf.sections[symbol.st_shndx].name
                    found.append((name, int(row["r_addend"])))
        return found

    def section(self, name: str) -> Section:
        section = self.elf.section(name)
        assert section is not None, [s.name for s in self.elf.sections]
        return section

    def contents(self, name: str) -> bytes:
        return bytes(self.elf.contents(self.section(name)))

    @property
    def section_names(self) -> set[str]:
        return {section.name for section in self.elf.sections}
