"""Small objects for other machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

#: What the kernels of each architecture are compiled with, as far as it is seen in the code.
FLAGS = {
    "s390x": ("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount", "-fPIC", "-march=z13"),
    "powerpc64le": ("-pg", "-mprofile-kernel", "-mcmodel=large", "-mabi=elfv2"),
    "aarch64": ("-fpatchable-function-entry=4,2", "-fno-pic", "-mbranch-protection=bti"),
}
#: What clang is told for a kernel of arm64 with landing pads, which gcc cannot build.
CLANG = (
    "--target=aarch64-linux-gnu", "-fpatchable-function-entry=4,2", "-fno-pic", "-ffixed-x18",
    "-mbranch-protection=pac-ret+bti", "-fsanitize=shadow-call-stack",
)  # fmt: skip


_COMMON = r"""
#define noinline __attribute__((noinline))
#define __sched __attribute__((section(".sched.text")))
struct static_key { int enabled; void *entries; };
static inline __attribute__((always_inline)) int static_branch(struct static_key *key)
{
    asm goto("0: " BRANCH "\n.pushsection __jump_table,\"aw\"\n.balign 8\n"
         ".long 0b-.,%l[yes]-.\n.quad " BRANCH_KEY "-.\n.popsection" :: KEY (key) :: yes);
    return 0;
yes:
    return 1;
}
"""

#: The kernel's macros that fill tables.
MACROS = {
    "s390x": r"""
#define WARN() asm volatile("0: mc 0,0\n.section .rodata.str,\"aMS\",@progbits,1\n" \
    "1: .asciz \"" __FILE__ "\"\n.previous\n.section __bug_table,\"aw\"\n" \
    "2: .long 0b-.\n .long 1b-.\n .short %0,1\n .org 2b+12\n.previous" :: "i" (__LINE__))
#define ALTERNATIVE(old, new, feature) asm volatile( \
    ".pushsection .altinstr_replacement, \"ax\"\n663: " new "\n664:\n.popsection\n" \
    "661: " old "\n662:\n.pushsection .altinstructions,\"a\"\n.long 661b - .\n" \
    ".long 663b - .\n.long " #feature "\n.byte 662b-661b\n.popsection" ::: "memory")
#define ALTERNATE(feature) ALTERNATIVE("lghi %%r0,1", "lghi %%r0,2", feature)
#define LOAD_SAFELY(to, from) asm volatile("1: lg %0,%1\n2:\n.pushsection __ex_table,\"a\"\n" \
    ".balign 4\n.long 1b - .\n.long 2b - .\n.short 1, 0\n.popsection" : "=d" (to) : "Q" (from))
#define BRANCH "brcl 0,%l[yes]"
#define KEY "jdd"
#define BRANCH_KEY "%0+1"
""",
    "aarch64": r"""
#define WARN() asm volatile(".pushsection __bug_table,\"aw\"\n.align 2\n2: .long 1f-.\n" \
    ".pushsection .rodata.str,\"aMS\",@progbits,1\n3: .asciz \"" __FILE__ "\"\n.popsection\n" \
    ".long 3b-.\n.short %c0,1\n.align 2\n.popsection\n1: brk 0x800" :: "i" (__LINE__))
#define ALTERNATIVE(old, new, feature) asm volatile( \
    "661: " old "\n662:\n.pushsection .altinstructions,\"a\"\n.word 661b - .\n" \
    ".word 663f - .\n.hword " #feature "\n.byte 662b-661b\n.byte 664f-663f\n.popsection\n" \
    ".subsection 1\n663: " new "\n664:\n.previous" ::: "memory")
#define ALTERNATE(feature) ALTERNATIVE("nop", "isb", feature)
#define LOAD_SAFELY(to, from) asm volatile("1: ldr %0,%1\n2:\n.pushsection __ex_table,\"a\"\n" \
    ".align 2\n.long 1b - .\n.long 2b - .\n.short 2, 0\n.popsection" : "=r" (to) : "Q" (from))
#define BRANCH "nop"
#define KEY "i"
#define BRANCH_KEY "%c0+1"
""",
    "powerpc64le": r"""
#define WARN() asm volatile("1: twi 31,0,0\n.section __bug_table,\"aw\"\n2: .4byte 1b-.\n" \
    ".pushsection .rodata.str,\"aMS\",@progbits,1\n3: .asciz \"" __FILE__ "\"\n.popsection\n" \
    ".4byte 3b-.\n.short %0,1\n.org 2b+12\n.previous" :: "i" (__LINE__))
#define ALTERNATE(feature) asm volatile("1: nop\nnop\n2:\n.pushsection __ftr_alt_97,\"a\"\n" \
    ".align 2\n3: isync\n4:\n.popsection\n.pushsection __ftr_fixup,\"a\"\n.align 3\n5:\n" \
    ".8byte " #feature ", " #feature ", 1b-5b, 2b-5b, 3b-5b, 4b-5b\n.popsection\n" \
    "6: nop\n.pushsection __spec_barrier_fixup,\"a\"\n7: .8byte 6b-7b\n.popsection" ::: "memory")
#define LOAD_SAFELY(to, from) asm volatile("1: ld%U1%X1 %0,%1\n2:\n" \
    ".pushsection __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long 2b - .\n.popsection" \
    : "=r" (to) : "m" (from))
#define BRANCH "nop"
#define KEY "i"
#define BRANCH_KEY "%c0+1"
""",
}
MACROS = {name: text + _COMMON for name, text in MACROS.items()}


def compile_for(arch: str, directory: Path, source: str, *flags: str, clang: bool = False) -> bytes:
    """Compile C for an architecture, or skip the test where its compiler is not installed."""
    compiler = "clang-19" if clang else f"{arch}-linux-gnu-gcc"
    if not shutil.which(compiler):
        pytest.skip(f"not on this machine: {compiler}")
    path = directory / f"{arch}.c"
    path.write_text(source)
    output = path.with_suffix(".o")
    own = CLANG if clang else FLAGS[arch]
    words = (*own, "-O2", "-ffreestanding", "-fno-asynchronous-unwind-tables", *flags)
    subprocess.run([compiler, *words, "-c", path, "-o", output], check=True)
    return output.read_bytes()
