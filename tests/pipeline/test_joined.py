"""Objects of parts in one module: what is bound to what."""

from __future__ import annotations

from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.pipeline.joined import set_apart
from klpbuild.proof.references import rename_undefined
from tests.symbols.inputs import compile_object


def undefined(path: Path) -> list[str]:
    return sorted(s.name for s in ElfFile.read(path).symbol_list if s.name and not s.st_shndx)


def test_a_name_that_another_part_annotates_after_the_link(tmp_path: Path) -> None:
    text = "void f(void); void g(void); void h(void) { f(); g(); }\n"
    own = compile_object(tmp_path, "own.c", text)
    (apart,), back = set_apart([own], {"f": ".klp.sym.rela.tun.vmlinux.f,0"})
    assert undefined(apart) == ["g", "klpbuild_apart_f"]
    rename_undefined(ElfFile.read(apart), back).write(apart)
    assert undefined(apart) == ["f", "g"]
    assert set_apart([own], {"x": ".klp.sym.rela.tun.vmlinux.x,0"}) == ([own], {})
