"""Code and variables that use what is freed once a livepatch is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.module.freed import check_freed
from tests.symbols.inputs import compile_object

HEAD = """
#define SECTION(name) __attribute__((section(name)))
#define __init SECTION(".init.text")
#define __ref SECTION(".ref.text") __attribute__((noinline))
#define __initdata SECTION(".init.data")
#define __initconst SECTION(".init.rodata")
static __initdata int number = 3;
static __initconst const char text[] = "hello";
static int __init __attribute__((noinline, used)) helper(int n) { return n + number; }
"""


def said(directory: Path, code: str) -> list[str]:
    elf = ElfFile.read(compile_object(directory, "own.c", HEAD + code))
    try:
        check_freed([elf])
    except KlpError as error:
        assert all(each.why.startswith("The kernel frees that") for each in error.problems)
        return [each.what for each in error.problems]
    return []


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("int f(void) { return ++number; }", ["f uses .init.data"]),
        ("const char *f(void) { return text; }", ["f uses .init.rodata"]),
        ("int f(void) { return helper(1); }", ["f uses .init.text"]),
        ("int (*call)(int) = helper;", ["call uses .init.text"]),
        ("int (*const calls[])(int) = { helper };", ["calls uses .init.text"]),
        ("int __init f(void) { return helper(++number) + text[number]; }", []),
        ("int __ref f(void) { return helper(1); }", []),
        ("int f(void) { return 1; }", []),
    ],
)  # fmt: skip
def test_what_stays_uses_nothing_that_is_freed(tmp_path: Path, code: str, what: list[str]) -> None:
    assert said(tmp_path, code) == what
