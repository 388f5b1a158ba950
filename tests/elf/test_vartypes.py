"""Types of variables, as debug information has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.vartypes import variable_types

SOURCE = """
typedef struct { int counter; } atomic_t;
typedef const volatile atomic_t *pointer_t;
struct list { struct list *next, *prev; };
enum state { OFF, ON };
extern struct list declared;
struct list declared;
static enum state state;
static pointer_t pointer;
static int (*function)(char *, long);
static union { int a; unsigned long b; } either[3];
static void *other __attribute__((section(".data..percpu")));
static char grid[2][8];
int use(int n)
{
    static atomic_t count;
    if (n) { static _Bool count; count = !count; return count; }
    state = n, pointer = &count, function = 0, either[n].a = n, other = grid;
    return count.counter++ + grid[n][n]++;
}
"""


def test_types_by_symbol(tmp_path: Path) -> None:
    (tmp_path / "code.c").write_text(SOURCE)
    flags = ["-O0", "-g", "-gdwarf-5", "-ffunction-sections", "-fdata-sections", "-c"]
    subprocess.run(["gcc", *flags, "code.c"], cwd=tmp_path, check=True)
    found = variable_types(ElfFile.read(tmp_path / "code.o"))
    counts = {name: found.pop(name).text for name in list(found) if name.startswith("count.")}
    assert sorted(counts.values()) == ["_Bool", "struct {int counter}"]
    assert {name: each.text for name, each in found.items()} == {
        "declared": "struct list",
        "state": "enum state",
        "pointer": "struct {int counter} *",
        "function": "int (char *, long int) *",
        "either": "union {int a, long unsigned int b}[3]",
        "other": "void *",
        "grid": "char[2][8]",
    }
    assert found["declared"].members == {"next": "struct list *", "prev": "struct list *"}
