"""Structures and enumerations that a patch changes without declaring them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.patch.fix import Fault
from tests.patch.small_kernel import SmallKernel, make_kernel
from tests.patch.test_pair import added, compiled, refusal


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return make_kernel(tmp_path / "kernel")


def test_what_a_file_defines_for_the_structures_of_others(
    small: SmallKernel, tmp_path: Path
) -> None:
    """Each object is asked, not one alone: another one may have an array of that size."""
    path = small.source / "kernel/warn.c"
    declared = "struct sized {\n\tint limits[LIMIT], all;\n};\n"
    function = "int all(struct sized *s)\n{\n\treturn s->all;\n}\n"
    path.write_text(path.read_text().replace("void warn", f"{declared}{function}void warn"))
    said = refusal(small, tmp_path, small.patch("include/linux/kernel.h", "LIMIT 3", "LIMIT 2"))
    assert said.startswith("0.patch:6: struct sized moves or resizes limits, all, has 12 bytes")


def test_enumerators_in_a_file_that_is_included_among_them(
    small: SmallKernel, tmp_path: Path
) -> None:
    hooks = small.source / "fs/read.h"
    hooks.write_text("HOOK(FIRST)\nHOOK(OTHER)\n")
    path = small.source / "fs/read.c"
    path.write_text(
        '#define HOOK(name) name,\nenum hook {\n#include "read.h"\n} now;\n'
        "int read_file(int number)\n{\n\treturn OTHER + number;\n}\n"
    )
    (small.source / "fs/sub/write.c").write_text("int write_file;\n")
    patch = small.patch("fs/read.h", "HOOK(FIRST)\nHOOK(OTHER)", "HOOK(OTHER)\nHOOK(FIRST)")
    assert "enum hook is numbered otherwise: " in refusal(small, tmp_path, patch)


def test_structures_of_one_name_in_two_files(small: SmallKernel, tmp_path: Path) -> None:
    """That one may be laid out otherwise says nothing about another one."""
    texts = []
    for name, make in (("fs/open.c", "kzalloc"), ("fs/read.c", "kmalloc")):
        path = small.source / name
        old = (
            "struct own {\n\tchar a;\n\tlong b;\n};\n"
            f"void *{make}(long, int);\n"
            f"void *make_{make}(void)\n{{\n\treturn {make}(sizeof(struct own), 1);\n}}\n"
            f"int use_{make}(struct own *own)\n{{\n\treturn own->a;\n}}\n{path.read_text()}"
        )
        path.write_text(old)
        new = old.replace("char a;", "char a, c;").replace("own->a", "own->c")
        texts.append(small.patch(name, old, new))
    assert refusal(small, tmp_path, *texts).startswith("1.patch:6: struct own gets c\n")


def test_the_patch_that_declares_a_structure_is_at_fault(
    small: SmallKernel, tmp_path: Path
) -> None:
    """Another one defines a macro in the file that shows it."""
    header = small.source / "include/linux/kernel.h"
    header.write_text(header.read_text() + "struct file {\n\tint number;\n\tlong size;\n};\n")
    path = small.source / "fs/open.c"
    path.write_text(path.read_text().replace("return count++", "return sizeof(struct file)"))
    texts = (
        small.patch("fs/open.c", "\nstatic int", "\n#define MORE 1\nstatic int"),
        small.patch("include/linux/kernel.h", "long size;", "long size;\n\tlong time;"),
    )
    with pytest.raises(KlpError) as caught:
        compiled(small, tmp_path, *texts)
    (fault,) = caught.value.problems
    assert isinstance(fault, Fault)
    assert fault.patches == ("1.patch",)
    assert fault.where.startswith("1.patch:")


def test_a_member_that_only_a_new_file_uses(small: SmallKernel, tmp_path: Path) -> None:
    """No object that the kernel has changes by it."""
    header = small.source / "fs/read.h"
    header.write_text(header.read_text() + "struct own {\n\tchar a;\n\tlong b;\n};\n")
    code = '#include "read.h"\nint dying(struct own *own);\nint dying(struct own *own)\n'
    texts = (
        small.patch("fs/read.h", "char a;", "char a;\n\tchar dying;"),
        small.patch("fs/open.c", "return count++", "int dying(void *);\n\treturn dying(&count)"),
        small.patch("fs/Makefile", "obj-y += sub/write.o", "obj-y += sub/write.o new.o"),
        added("fs/new.c", code + "{\n\treturn own->dying;\n}\n"),
    )
    assert "struct own gets dying" in refusal(small, tmp_path, *texts)


def test_a_member_that_a_file_uses_that_includes_it_now(small: SmallKernel, tmp_path: Path) -> None:
    header = small.source / "fs/read.h"
    header.write_text(header.read_text() + "struct own {\n\tchar a;\n\tlong b;\n};\n")
    use = '#include "read.h"\nint warned(struct own *own)\n{\n\treturn own->dying;\n}\n\nvoid warn('
    texts = (
        small.patch("fs/read.h", "char a;", "char a;\n\tchar dying;"),
        small.patch("kernel/warn.c", "void warn(", use.replace("read.h", "../fs/read.h")),
    )
    assert "struct own gets dying" in refusal(small, tmp_path, *texts)
