"""Types that C files define themselves, compared with a kernel that the machine's gcc makes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from klpbuild.arch import X86_64
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.module.structures import (
    TYPE_FLAGS,
    KernelTypes,
    Source,
    check_structures,
    defines_types,
)
from klpbuild.symbols.database import Candidate
from tests.symbols.inputs import compile_object, link_module, link_vmlinux

PRIVATE = """
struct rb; struct other { int x; };
union value { int whole; struct { short low, high; }; long wide; };
enum state { IDLE, BUSY = 4, DONE };
enum { MODE_A = 1, MODE_B };
typedef struct { int x, y; } point_t;
struct queue {
    int limit;
    struct rb *root;
    unsigned int dirty : 3, level : 5;
    union { int number; struct { short lo, hi; }; };
    struct { short first, second; } pair;
    struct { char key, value; } cells[2][3];
    struct other other;
    union value value;
    enum state state;
    point_t where;
    char name[];
};
"""
CODE = """
int queue_work(struct queue *q, point_t *p, union value *v)
{ struct private_to_it { int one; } it = { p->x }; return q->limit + v->whole + it.one + MODE_A; }
"""
#: In another file of vmlinux, another structure of that name.
HOMONYM = """
struct queue { long other_limit; };
struct far { int near; };
int other_work(struct queue *q, struct far *f) { return q->other_limit + f->near; }
"""
MODULE = """
struct gadget { int volume; };
int gadget_work(struct gadget *g) { return g->volume; }
"""
OWN = "int livepatch_work(struct queue *q, point_t *p, union value *v) { return !q; }\n"


@dataclass(frozen=True)
class Made:
    """A kernel, and what it takes to replace its functions."""

    kernel: Kernel

    def function(self, owner: str, name: str) -> Candidate:
        path = self.kernel.vmlinux if owner == "vmlinux" else self.kernel.modules[0]
        assert path is not None
        elf = ElfFile.read(path)
        symbol = next(s for s in elf.symbol_list if s.name == name)
        section = elf.sections[symbol.st_shndx].name
        return Candidate(owner, name, 1, 1, symbol.st_value, section=section)

    def refusals(
        self,
        directory: Path,
        text: str,
        owner: str = "vmlinux",
        name: str = "queue_work",
        accepted: tuple[str, ...] = (),
        flags: tuple[str, ...] = ("-g", *TYPE_FLAGS),
        above: Path | None = None,
    ) -> list[str]:
        """What is said of a C file that replaces a function, and what could not be compared."""
        made = compile_object(directory, "own.c", text, *flags)
        replaced = (self.function(owner, name),)
        source = Source(directory / "own.c", ElfFile.read(made), replaced, accepted, above)
        problems = Problems()
        untold = check_structures(KernelTypes(self.kernel), [source], problems)
        return [*(text.replace(f"{directory}/", "") for text in told(problems)), *untold]


def told(problems: Problems) -> list[str]:
    """The problems so far."""
    try:
        problems.check()
    except KlpError as error:
        return [str(problem) for problem in error.problems]
    return []


def make_kernel(
    directory: Path, *flags: str, text: str = PRIVATE + CODE, module: str = MODULE
) -> Made:
    private = compile_object(directory, "private.c", text, *flags)
    homonym = compile_object(directory, "homonym.c", HOMONYM, *flags)
    vmlinux = link_vmlinux(directory, private, homonym)
    gadget = compile_object(directory, "gadget.c", module, *flags)
    linked = link_module(directory, "gadget.ko", gadget)
    build = directory / "build"
    build.mkdir()
    (build / ".config").touch()
    kernel = Kernel(
        "small", "6.1.0-small", (6, 1, 0), build, X86_64, build / ".config",
        build / "Module.symvers", (linked,), vmlinux, None, None, None, None, None,
        directory / "cache",
    )  # fmt: skip
    return Made(kernel)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_kernel(tmp_path_factory.mktemp("dwarf"), "-g")


@pytest.fixture(scope="module")
def kernel_with_btf(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_kernel_with_btf(tmp_path_factory.mktemp("btf"), PRIVATE + CODE)


def make_kernel_with_btf(directory: Path, text: str) -> Made:
    """Without DWARF; vmlinux' type information is of one file."""
    made = make_kernel(directory, text=text)
    with_types = compile_object(directory, "types.c", text, "-g0", "-gbtf")
    section = directory / "types"
    copy = ["objcopy", "-O", "binary", "--only-section=.BTF", "--set-section-flags=.BTF=alloc"]
    subprocess.run([*copy, with_types, section], check=True)
    assert made.kernel.vmlinux is not None
    subprocess.run(["objcopy", f"--add-section=.BTF={section}", made.kernel.vmlinux], check=True)
    return made


def test_a_faithful_copy_differs_in_nothing(kernel: Made, tmp_path: Path) -> None:
    assert kernel.refusals(tmp_path, PRIVATE + OWN) == []


CHANGES = [
    ("int limit", "int bound", "struct queue is laid out", "member bound, at byte 0, is not there"),
    ("int limit", "long limit", "struct queue is laid out", "member limit has size 8, there 4"),
    ("int limit;", "", "struct queue is laid out", "root is at byte 0, there at byte 8"),
    ("level : 5", "level : 6", "struct queue is laid out", "level has size 6, there 5"),
    ("int limit", "int limit : 4", "struct queue is laid out",
     "member limit is a bit field, and there it is otherwise"),
    ("dirty : 3, level : 5", "level : 5, dirty : 3", "struct queue is laid out",
     "level is at byte 16, there at bit 131"),
    ("lo, hi", "hi, lo", "struct queue is laid out", "hi is at byte 20, there at byte 22"),
    ("first, second", "second, first", "struct queue is laid out",
     "pair.second is at byte 24, there at byte 26"),
    ("key, value;", "value, key;", "struct queue is laid out",
     "cells[].value is at byte 28, there at byte 29"),
    ("    char name[];\n", "", "struct queue is laid out",
     "It lacks the member name, which is at byte 68 there"),
    ("char name[]", "short name[]", "struct queue is laid out",
     "Its member name[] has size 2, there 1"),
    ("point_t where;", "point_t where; int more;", "struct queue is laid out",
     "more, at byte 68, is not there"),
    ("int whole;", "", "union value is laid out",
     "It lacks the member whole, which is at byte 0 there"),
    ("low, high", "high, low", "union value is laid out", "high is at byte 0, there at byte 2"),
    ("IDLE, ", "", "enum state is numbered", "It lacks IDLE, which is 0 there"),
    ("BUSY = 4", "BUSY", "enum state is numbered", "Its BUSY is 1, there 4"),
    ("DONE }", "DONE, LATE }", "enum state is numbered", "Its LATE is not there"),
    ("MODE_A = 1", "MODE_A", "enumerator MODE_A is numbered", "Its MODE_A is 0, there 1"),
    ("int x, y;", "int y, x;", "point_t is laid out", "y is at byte 0, there at byte 4"),
    ("struct { int x, y; } point_t", "union { int x, y; } point_t", "point_t is laid out",
     "It is a union, there a struct"),
    ("struct other { int x; }", "struct other { int x, y; }", "struct other is laid out",
     "y, at byte 4, is not there; it has 8 bytes, there 4"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "what", "why"), CHANGES)
@pytest.mark.parametrize("made", ["kernel", "kernel_with_btf"])
def test_what_differs_is_refused(
    made: str, old: str, new: str, what: str, why: str, request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert old in PRIVATE
    text = PRIVATE.replace(old, new, 1) + OWN
    found = request.getfixturevalue(made).refusals(tmp_path, text)
    assert any(f"{what} otherwise in vmlinux" in each and why in each for each in found), found


def test_the_whole_message(kernel: Made, tmp_path: Path) -> None:
    text = PRIVATE.replace("level : 5", "level : 6") + OWN
    assert kernel.refusals(tmp_path, text) == [
        """\
own.c:7: struct queue is laid out otherwise in vmlinux
  Its member level has size 6, there 5.
  Take it from this kernel's source, or give it another name if it is another type.
  If the difference does no harm, accept it: accept_layouts = ["struct queue"] in livepatch.toml."""
    ]
    assert kernel.refusals(tmp_path, text, accepted=("struct queue",)) == []


def test_of_several_of_a_name_that_of_the_replaced_function_s_file_counts(
    kernel: Made, tmp_path: Path
) -> None:
    own = "struct queue { long other_limit; };\nlong work(struct queue *q) { return 1; }\n"
    (refused,) = kernel.refusals(tmp_path, own)
    assert "struct queue is laid out otherwise in vmlinux" in refused
    assert kernel.refusals(tmp_path, own, name="other_work") == []


def test_a_type_inside_of_a_function(kernel: Made, tmp_path: Path) -> None:
    own = "int work(int n) { struct private_to_it { long one; } it = { n }; return it.one; }\n"
    (refused,) = kernel.refusals(tmp_path, own)
    assert refused.startswith("own.c:1: struct private_to_it is laid out otherwise in vmlinux")


def test_a_header_of_the_user_s(kernel: Made, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "private.h").write_text(PRIVATE.replace("int limit;", ""))
    (refused,) = kernel.refusals(tmp_path, '#include "sub/private.h"\n' + OWN)
    assert refused.startswith("sub/private.h:7: struct queue is laid out otherwise in vmlinux")


def test_a_header_by_its_absolute_path(kernel: Made, tmp_path: Path) -> None:
    elsewhere, own = tmp_path / "elsewhere", tmp_path / "own"
    elsewhere.mkdir()
    own.mkdir()
    (elsewhere / "inner.h").write_text(PRIVATE.replace("int limit;", ""))
    (elsewhere / "outer.h").write_text('#include "inner.h"\n')
    text = f'#include "{elsewhere}/outer.h"\n{OWN}'
    (refused,) = kernel.refusals(own, text)
    assert refused.startswith(f"{elsewhere}/inner.h:7: struct queue is laid out otherwise in")


@pytest.mark.parametrize("name", ["private.h", "../private.h"])
def test_a_header_of_all_parts(kernel: Made, tmp_path: Path, name: str) -> None:
    (tmp_path / "private.h").write_text(PRIVATE.replace("int limit;", ""))
    part = tmp_path / "part"
    part.mkdir()
    flags = ("-g", *TYPE_FLAGS, f"-I{tmp_path}", f"-ffile-prefix-map={tmp_path}/=")
    (refused,) = kernel.refusals(part, f'#include "{name}"\n{OWN}', flags=flags, above=tmp_path)
    assert "private.h:7: struct queue is laid out otherwise" in refused


def test_a_header_of_the_kernel_s_is_not_compared(kernel: Made, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    header = tmp_path / "include" / "queue.h"
    header.write_text("struct queue { int only; };\n")
    own = "#include <queue.h>\nint work(struct queue *q) { return q->only; }\n"
    assert kernel.refusals(tmp_path, own, flags=("-g", f"-I{tmp_path}/include")) == []


def test_a_type_of_the_author_s_alone(kernel: Made, tmp_path: Path) -> None:
    own = "struct my_shadow { long count; };\nenum { MINE };\ntypedef struct { int a; } mine_t;\n"
    own += "long work(struct my_shadow *s, mine_t *m) { return s->count + m->a + MINE; }\n"
    assert kernel.refusals(tmp_path, own) == []


def test_a_module_s_type(kernel: Made, tmp_path: Path) -> None:
    own = (
        "struct gadget { int level, volume; };\nint work(struct gadget *g) { return g->volume; }\n"
    )
    (refused,) = kernel.refusals(tmp_path, own, "gadget", "gadget_work")
    assert "struct gadget is laid out otherwise in gadget\n" in refused


def test_a_type_of_another_file(kernel: Made, kernel_with_btf: Made, tmp_path: Path) -> None:
    """Where the replaced function's file has no such type, vmlinux' type information tells."""
    own = "struct other { int x, y; };\nint work(struct other *o) { return o->y; }\n"
    (refused,) = kernel_with_btf.refusals(tmp_path, own, name="other_work")
    assert "struct other is laid out otherwise in vmlinux" in refused
    own = "struct far { long near; };\nlong work(struct far *f) { return f->near; }\n"
    assert kernel.refusals(tmp_path, own) == [
        "struct far of own.c: the kernel's type information is not at hand"
    ]


def test_without_the_kernel_s_debug_information(kernel: Made, tmp_path: Path) -> None:
    bare = Made(replace(kernel.kernel, vmlinux=None, modules=()))
    made = compile_object(tmp_path, "own.c", PRIVATE + OWN, "-g", *TYPE_FLAGS)
    replaced = (kernel.function("vmlinux", "queue_work"),)
    source = Source(tmp_path / "own.c", ElfFile.read(made), replaced)
    problems = Problems()
    (untold,) = check_structures(KernelTypes(bare.kernel), [source], problems)
    assert told(problems) == []
    assert untold.startswith("struct other, union value, enum state, enumerator MODE_A, ")
    assert untold.endswith(" of own.c: the kernel's type information is not at hand")


def test_a_file_without_debug_information(kernel: Made, tmp_path: Path) -> None:
    assert kernel.refusals(tmp_path, PRIVATE + OWN, flags=("-g0",)) == [
        "types of own.c: compiled without debug information"
    ]
    assert kernel.refusals(tmp_path, "int work(void) { return 1; }\n", flags=("-g0",)) == []


@pytest.mark.parametrize(
    ("text", "whether"),
    [
        (b"struct x { int a; };", True),
        (b"typedef union\n{ int a; } u;", True),
        (b"enum { A };", True),
        (b'#include "mine.h"\n', True),
        (b"#include <linux/kernel.h>\nint f(struct x *x) { return 1; }", False),
        (b"struct klp_func functions[] = { { 0 } };", False),
    ],
)
def test_files_that_define_types(text: bytes, whether: bool) -> None:
    assert defines_types(text) is whether
