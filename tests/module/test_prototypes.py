"""Replacements of C files, compared with the functions of a kernel that the machine's gcc makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import Problems
from klpbuild.module.livepatch import PatchedObject
from klpbuild.module.prototypes import (
    Replacement,
    check_callbacks,
    check_declarations,
    check_prototypes,
)
from klpbuild.module.structures import KernelTypes, Source
from tests.module.test_structures import Made, make_kernel, make_kernel_with_btf, told
from tests.symbols.inputs import compile_object

KERNEL = """
struct queue { int limit; }; struct other { int x; };
typedef struct { unsigned int val; } id_t; typedef unsigned char u8;
int show(struct queue *q, void *v) { return q->limit + !v; }
static void __attribute__((noinline, used)) notify(struct queue *q) { q->limit++; }
long wide(unsigned long address, struct other *o, u8 b, id_t id) { return o->x + b + id.val; }
int told(const char *format, ...) { return *format; }
int limit(int n) __asm__("limit.isra.0"); int limit(int n) { return n; }
static long __do_call(int n) { return n; }
long call(int n) __attribute__((alias("__do_call")));
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_kernel(tmp_path_factory.mktemp("dwarf"), "-g", text=KERNEL)


@pytest.fixture(scope="module")
def kernel_with_btf(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_kernel_with_btf(tmp_path_factory.mktemp("btf"), KERNEL)


def said(
    made: Made, directory: Path, name: str, head: str, accepted: str = "", debug: str = "-g"
) -> list[str]:
    """What is said of a replacement with a head, and what is not compared."""
    text = f"struct queue; struct other; struct mine;\n{head} {{ for (;;); }}\n"
    own = ElfFile.read(compile_object(directory, "own.c", text, debug, "-Wno-return-type"))
    old = made.function("vmlinux", name)
    source = Source(directory / "own.c", own, (old,), (accepted,))
    problems = Problems()
    untold = check_prototypes(
        KernelTypes(made.kernel), [source], [Replacement(old, "mine")], problems
    )
    return [*(each.replace(f"{directory}/", "") for each in told(problems)), *untold]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("show", "int mine(struct queue *q, void *v)"),
        ("show", "int mine(void *q)"),
        ("show", "int mine(void)"),
        ("show", "unsigned int mine(const struct mine *q, char *v)"),
        ("notify", "void mine(struct queue *q)"),
        ("notify", "int mine(struct queue *q)"),
        ("wide", "unsigned long mine(long a, void *o, unsigned char b,"
         " struct { unsigned int val; } id)"),
        ("told", "int mine(const char *format, ...)"),
        ("call", "long mine(int n)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("made", ["kernel", "kernel_with_btf"])
def test_a_replacement_that_is_called_alike(
    made: str, name: str, head: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = said(request.getfixturevalue(made), tmp_path, name, head)
    alias = made == "kernel_with_btf" and name == "call"
    lack = "prototype of mine: the debug information at hand does not have call"
    assert found == [lack] * alias


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("show", "int mine(void *v, long n)"),
        ("show", "int mine(struct queue *q, void *v, int more)"),
        ("show", "void mine(struct queue *q, void *v)"),
        ("show", "long mine(struct queue *q, void *v)"),
        ("show", "_Bool mine(struct queue *q, void *v)"),
        ("show", "int mine(struct queue *q, unsigned long v)"),
        ("wide", "long mine(struct other *o, unsigned long a, unsigned char b,"
         " struct { unsigned int val; } id)"),
        ("wide", "long mine(unsigned long a, struct other *o, unsigned int b,"
         " struct { unsigned int val; } id)"),
        ("wide", "long mine(unsigned long a, struct other *o, unsigned char b, unsigned int id)"),
        ("told", "int mine(int n)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("made", ["kernel", "kernel_with_btf"])
def test_a_replacement_that_is_called_otherwise(
    made: str, name: str, head: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (refused,) = said(request.getfixturevalue(made), tmp_path, name, head)
    assert f"own.c:2: mine has another result or other parameters than {name}, which" in refused


def test_the_whole_message(kernel: Made, tmp_path: Path) -> None:
    """The kernel's file knows struct other: it is not another name for struct queue."""
    head = "int mine(struct other *q, void *v)"
    assert said(kernel, tmp_path, "show", head) == [
        """\
own.c:2: mine has another result or other parameters than show, which it replaces
  It is int (struct other *, void *), the kernel's is int (struct queue *, void *).
  The kernel calls it as the one that it replaces.
  Take the function's head from this kernel's source.
  If the difference does no harm, accept it: accept_layouts = ["show"] in livepatch.toml."""
    ]
    assert said(kernel, tmp_path, "show", head, accepted="show") == []


CLONE = """\
own.c:2: mine replaces limit.isra.0, a clone, and may be called otherwise than it is written
  It is int (struct queue *).  gcc makes clones of a function for calls that it knows: they may
  leave parameters away, or pass what one points to in its place.
  Replace the functions that call it, or make the livepatch from a patch.
  If the clone's code takes what mine takes, accept it: accept_layouts = ["limit.isra.0"]
  in livepatch.toml."""


def test_a_clone_is_called_as_nothing_tells(kernel: Made, tmp_path: Path) -> None:
    """It takes the limit, not the queue."""
    head = "int mine(struct queue *q)"
    assert said(kernel, tmp_path, "limit.isra.0", head) == [CLONE]
    assert said(kernel, tmp_path, "limit.isra.0", head, accepted="limit.isra.0") == []
    (without,) = said(kernel, tmp_path, "limit.isra.0", head, debug="-g0")
    assert without == CLONE.replace(":2:", ":").replace("It is int (struct queue *).  ", "")
    lack = "prototype of mine: compiled without debug information"
    assert said(kernel, tmp_path, "notify", head, debug="-g0") == [lack]


@pytest.mark.parametrize(
    ("head", "told_as"),
    [
        ("int before(struct klp_object *object)", ""),
        ("int before(void *object)", ""),
        ("int before(void)", ""),
        ("static void before(void)", ""),
        ("void before(void *object)", "void (void *)"),
        ("_Bool before(struct klp_object *object)", "_Bool (struct klp_object *)"),
        ("int before(struct klp_patch *patch)", "int (struct klp_patch *)"),
        ("int before(struct klp_object *object, int n)", "int (struct klp_object *, int)"),
    ],
)
def test_a_callback(tmp_path: Path, head: str, told_as: str) -> None:
    text = "struct klp_object; struct klp_patch; int after(void *object) { return 1; }"
    text += f"{head} {{ for (;;); }}"
    made = ElfFile.read(compile_object(tmp_path, "own.c", text, "-g"))
    called = {"pre_patch": "before", "post_patch": "after"}
    objects = [PatchedObject("vmlinux", (), called, "livepatch.toml:1")]
    problems = Problems()
    check_callbacks([Source(tmp_path / "own.c", made, ())], objects, problems)
    assert told(problems) == [
        f"livepatch.toml:1: callback 'before' is {told_as}\n"
        "  The kernel calls pre_patch as int (struct klp_object *).\n"
        "  Write it so."
    ] * bool(told_as)


@pytest.mark.parametrize(
    ("head", "is_right"),
    [
        ("extern int show(struct queue *q, void *v)", True),
        ("extern void show(struct queue *q, void *v)", True),
        ("extern int show(struct mine *q, char *v)", True),
        ("extern int show(struct queue *q)", False),
        ("extern int show(struct other *q, void *v)", False),
        ("extern long show(struct queue *q, void *v)", False),
    ],
)
def test_a_function_that_a_c_file_declares(
    kernel: Made, tmp_path: Path, head: str, is_right: bool
) -> None:
    """Also where it is declared for a livepatch relocation."""
    used = ", ".join("0" * (1 + head.count(",")))
    for symbol in ("show", ".klp.sym.rela.vmlinux.vmlinux.show,0"):
        text = "struct queue; struct other; struct mine;\n"
        text += f'{head} __asm__("\\"{symbol}\\"");\nint mine(void) {{ show({used}); return 1; }}\n'
        own = ElfFile.read(compile_object(tmp_path, "own.c", text, "-g", "-O2"))
        old, problems = kernel.function("vmlinux", "show"), Problems()
        for accepted in ((), ("show",)):
            source = Source(tmp_path / "own.c", own, (), accepted)
            check_declarations(KernelTypes(kernel.kernel), [source], {symbol: old}, problems)
        assert [
            "own.c:2: declares show otherwise than the kernel" in t for t in told(problems)
        ] == [True] * (not is_right)


def test_a_declaration_of_the_kernel_s_headers(kernel: Made, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "show.h").write_text("int show(int n);\n")
    text = "#include <show.h>\nint mine(void) { return show(1); }\n"
    own = compile_object(tmp_path, "own.c", text, "-g", "-O2", f"-I{tmp_path}/include")
    old, problems = kernel.function("vmlinux", "show"), Problems()
    source = Source(tmp_path / "own.c", ElfFile.read(own), ())
    check_declarations(KernelTypes(kernel.kernel), [source], {"show": old}, problems)
    assert told(problems) == []
