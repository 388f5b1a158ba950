"""The list of functions that SUSE's fixes have, and their flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.module.listed import conditions_source, read_flags, read_list, with_conditions
from klpbuild.module.livepatch import Livepatch


def listed(directory: Path, text: str) -> Livepatch:
    (directory / "patched_funcs.csv").write_text(text)
    return Livepatch("bsc1", (), read_list(directory / "patched_funcs.csv"), has_list=True)


def test_objects_positions_macros_and_conditions(tmp_path: Path) -> None:
    text = (
        "vmlinux  f,2 klpp_f\n\n"
        "drivers/net/tun.ko g klpp_g IS_ENABLED(CONFIG_A) && defined(B)\n"
        "vmlinux SYM(h) SYM(klpp_h) defined(C)\n"
    )
    vmlinux, tun = listed(tmp_path, text).objects
    assert (vmlinux.name, tun.name) == ("vmlinux", "tun")
    first, second = vmlinux.functions
    assert (first.old, first.sympos, first.new, first.condition) == ("f", 2, "klpp_f", "")
    assert (second.old, second.new, second.condition) == ("SYM(h)", "SYM(klpp_h)", "defined(C)")
    assert tun.functions[0].condition == "IS_ENABLED(CONFIG_A) && defined(B)"
    assert second.where.endswith("patched_funcs.csv:4")


def test_lines_that_are_none_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        listed(tmp_path, "vmlinux f\nvmlinux f; g\nvmlinux f g 1 \\\nvmlinux f,x g\na-+b f g\n")
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "patched_funcs.csv:1: does not name an object, an old and a new function\n"
        "  object old[,sympos] new [condition]\n"
        "patched_funcs.csv:2: 'f;' is not the name of a function\n"
        "patched_funcs.csv:3: has a condition that does not end\n"
        "patched_funcs.csv:4: 'f,x' is not the name of a function\n"
        "patched_funcs.csv:5: object name 'a_+b' cannot be a module's\n"
        "  A module's name has letters, digits and '_' only; '-' is written '_'."
    )


def test_what_the_preprocessor_leaves_is_replaced(tmp_path: Path) -> None:
    text = "vmlinux f klpp_f 0\nvmlinux SYM(g) SYM(klpp_g) 1\nm h,3 klpp_h\n"
    livepatch = listed(tmp_path, text)
    source = conditions_source(livepatch)
    assert f'#line 1 "{tmp_path}/patched_funcs.csv"\n#if 0\n' in source
    assert '#include "livepatch_bsc1.h"\n' in source
    said = (
        "klpbuild_replaces 1 x64_g x64_klpp_g klpbuild_replaces\n"
        "klpbuild_replaces 2 klpbuild_replaces\n"
    )
    vmlinux, module = with_conditions(livepatch, said).objects
    assert [(f.old, f.new, f.condition) for f in vmlinux.functions] == [("x64_g", "x64_klpp_g", "")]
    assert [(f.old, f.sympos) for f in module.functions] == [("h", 3)]
    assert with_conditions(livepatch, "").objects == ()


def test_flags(tmp_path: Path) -> None:
    path = tmp_path / "Kbuild.inc"
    both = "CFLAGS_a.o += -Werror -DX=1\nCFLAGS_bsc1/a.o += -Werror # twice\n"
    path.write_text(f"{both}CFLAGS_b.o := -g\n")
    assert read_flags(path, tmp_path / "a.c") == ("-Werror", "-DX=1")
    path.write_text("CFLAGS_a.o += -fplugin=x.so $(shell x)\nobj-m += x.o\n")
    with pytest.raises(KlpError) as caught:
        read_flags(path, tmp_path / "a.c")
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "Kbuild.inc:1: has the flag -fplugin=x.so, which is not taken\n"
        "Kbuild.inc:1: has the flag $(shell, which is not taken\n"
        "Kbuild.inc:1: has the flag x), which is not taken\n"
        "Kbuild.inc:2: is not understood\n"
        "  CFLAGS_file.o += -flag"
    )
