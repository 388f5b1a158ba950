"""The debug information of the shipped kernel says what a file goes into."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.constants import SHF
from klpbuild.elf.dwarf import Dwarf
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.linetable import line_units
from klpbuild.patch.units import Unit, Units
from tests.machines.objects import FLAGS, compile_for
from tests.patch.small_kernel import SmallKernel, make_kernel


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    return make_kernel(tmp_path_factory.mktemp("kernel"))


def test_a_c_file_has_an_owner_and_an_object(small: SmallKernel) -> None:
    units = Units.read(small.kernel)
    (unit,) = units.compiled_from("fs/open.c")
    assert (unit.owner, unit.source, unit.objects[0]) == ("vmlinux", "fs/open.c", "fs/open.o")
    (unit,) = units.compiled_from("drivers/disk/disk.c")
    assert (unit.owner, unit.objects[0]) == ("my_disk", "drivers/disk/disk.o")
    (unit,) = units.compiled_from("drivers/shared/part.c")
    assert (unit.owner, unit.objects[0]) == ("my_disk", "drivers/disk/../shared/part.o")
    assert units.compiled_from("drivers/not_built.c") == ()
    assert units.compiled_from("include/linux/kernel.h") == ()


def test_a_header_is_mentioned_where_its_code_is_used(small: SmallKernel) -> None:
    units = Units.read(small.kernel)
    assert [u.source for u in units.mentioning("include/linux/kernel.h")] == ["fs/open.c"]
    assert units.mentioning("fs/read.h") == ()
    assert [u.source for u in units.mentioning("fs/open.c")] == ["fs/open.c"]


@pytest.mark.parametrize("notes", [".vmlinux.objs", "vmlinux.a"])
def test_notes_of_kbuild_stand_in_for_debug_information(tmp_path: Path, notes: str) -> None:
    """A list of vmlinux' objects, or the thin archive that it is linked from."""
    small = make_kernel(tmp_path)
    build, vmlinux = small.kernel.build, small.kernel.vmlinux
    assert vmlinux is not None
    subprocess.run(["strip", "-g", vmlinux, *small.kernel.modules], check=True)
    with pytest.raises(KlpError, match="debug symbols are not at hand"):
        Units.read(small.kernel)
    objects = ["fs/open.o", "fs/read.o", "lib/table.o", "entry.o"]
    (build / "entry.o").write_bytes((build / "fs/open.o").read_bytes())
    if notes == "vmlinux.a":
        subprocess.run(["ar", "cDPrST", notes, *objects], cwd=build, check=True)
    else:
        (build / notes).write_text("".join(f"{name}\n" for name in objects))
    small.kernel.modules[0].with_suffix(".mod").write_text("drivers/disk/disk.o\n")
    includes = {"fs/open": "include/linux/kernel.h", "fs/read": "fs/read.h"}
    for name in ("fs/open", "fs/read", "lib/table", "drivers/disk/disk"):
        files = [small.source / f"{name}.c", Path(f"include/generated/{small.kernel.release}.h")]
        files += [small.source / includes[name]] if name in includes else []
        lines = "".join(f"  {each} \\\n    $(wildcard include/config/X) \\\n" for each in files)
        path = build / name
        path.with_name(f".{path.name}.o.cmd").write_text(
            f"savedcmd_{name}.o := gcc\n\nsource_{name}.o := {small.source / name}.c\n\n"
            f"deps_{name}.o := \\\n{lines}\n{name}.o: $(deps_{name}.o)\n"
        )
    units = Units.read(small.kernel)
    assert units.sources == {"fs/open.c", "fs/read.c", "lib/table.c", "drivers/disk/disk.c"}
    assert [u.source for u in units.mentioning("fs/read.h")] == ["fs/read.c"]
    assert len(units.mentioning(f"include/generated/{small.kernel.release}.h")) == 4
    assert units.mentioning("include/config/X") == ()
    (unit,) = units.compiled_from("drivers/disk/disk.c")
    assert unit.owner == "my_disk"


def test_a_damaged_archive(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    assert small.kernel.vmlinux is not None
    subprocess.run(["strip", "-g", small.kernel.vmlinux], check=True)
    archive = small.kernel.build / "vmlinux.a"
    archive.write_text("no archive")
    with pytest.raises(KlpError) as caught:
        Units.read(small.kernel)
    assert str(caught.value).startswith(f"{archive}: its members cannot be listed\n  ar: ")


def test_a_build_tree_without_either(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    vmlinux = small.kernel.build / "vmlinux"
    assert small.kernel.vmlinux is not None
    subprocess.run(["strip", "-g", "-o", vmlinux, small.kernel.vmlinux], check=True)
    kernel = dataclasses.replace(small.kernel, vmlinux=vmlinux)
    with pytest.raises(KlpError) as caught:
        Units.read(kernel)
    assert str(caught.value) == (
        "small: vmlinux has no debug information, and the build tree no list of its objects\n"
        "  One of them must say which objects a source file is in.\n"
        "  Build the kernel with CONFIG_DEBUG_INFO_DWARF5, or build v6.1 or later."
    )


def test_it_is_read_once(small: SmallKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Units.read(small.kernel).sources
    monkeypatch.setattr("klpbuild.patch.units.line_units", None)
    assert Units.read(small.kernel).sources == sources >= {"fs/open.c", "drivers/disk/disk.c"}


def test_the_neighbours_tell_where_a_file_of_a_tool_is_compiled(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    build = small.kernel.build
    command = ["gcc", "-g", "-gdwarf-5", "-fno-pie", "-mcmodel=kernel", "-c", "-o", build / "t.o"]
    subprocess.run([*command, small.source / "tools/program.c"], check=True)
    objects = [build / "fs/open.o", build / "t.o", build / "kernel/warn.o"]
    link = ["ld", "-r", "-o", small.kernel.vmlinux, *objects]
    subprocess.run(link, check=True)
    assert Units.read(small.kernel).compiled_from("tools/program.c") == (
        Unit("vmlinux", "tools/program.c", ("fs/program.o", "kernel/program.o", "tools/program.o")),
    )


@pytest.mark.parametrize("linked", [False, True])
def test_more_directories_than_one_byte_counts(tmp_path: Path, linked: bool) -> None:
    lines = []
    for number in range(200):
        header = tmp_path / f"d{number}" / f"h{number}.h"
        header.parent.mkdir()
        header.write_text(f"static inline int f{number}(int a) {{ return a + {number}; }}\n")
        lines.append(f'#include "{header}"\n')
    calls = " + ".join(f"f{number}(a)" for number in range(200))
    (tmp_path / "x.c").write_text("".join(lines) + f"int x(int a) {{ return {calls}; }}\n")
    command = ["gcc", "-O2", "-g", "-gdwarf-5", "-c", "-o", "x.o", tmp_path / "x.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if linked:
        subprocess.run(["ld", "-e", "x", "-o", "y.o", "x.o"], cwd=tmp_path, check=True)
    (unit,) = line_units(ElfFile.read(tmp_path / ("y.o" if linked else "x.o")))
    headers = {f"{tmp_path}/d{n}/h{n}.h" for n in range(200)}
    assert unit.source == f"{tmp_path}/x.c"
    assert set(unit.files) == {f"{tmp_path}/x.c"} | headers


@pytest.mark.parametrize("arch", FLAGS)
def test_files_of_units_of_other_machines(arch: str, tmp_path: Path) -> None:
    flags = ("-gdwarf-5", "-gno-as-loc-support")  # Not all assemblers write DWARF 5.
    elf = ElfFile(compile_for(arch, tmp_path, "int f(void) { return 1; }", *flags), "x.o")
    (unit,) = line_units(elf)
    assert unit.source == f"{tmp_path}/{arch}.c"
    assert unit.files == (unit.source,)


def test_two_units_of_a_module(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
        command = ["gcc", "-g", "-gdwarf-5", "-c", "-o", f"{name}.o", f"./{name}.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["ld", "-r", "-o", "m.ko", "b.o", "a.o"], cwd=tmp_path, check=True)
    assert [unit.source for unit in line_units(ElfFile.read(tmp_path / "m.ko"))] == ["b.c", "a.c"]


def test_other_debug_information_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int x(void) { return 1; }\n")
    command = ["gcc", "-g", "-gdwarf-4", "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"]
    subprocess.run(command, check=True)
    with pytest.raises(KlpError, match="has debug information of DWARF"):
        line_units(ElfFile.read(tmp_path / "x.o"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in {
        "include/linux/a.h": "#include <linux/b.h>\n",
        "include/linux/b.h": "#  include <asm/c.h>\n",
        "arch/x86/include/asm/c.h": "\n",
        "arch/arm64/include/asm/c.h": "\n",
        "include/asm-generic/d.h": "\n",
        "include/linux/kconfig.h": "#include <generated/autoconf.h>\n",
        "net/x.c": "#include <linux/a.h>\n",
        "net/y.c": '#include "private.h"\n',
        "net/private.h": "#include <asm/d.h>\n",
        "net/deep/z.c": '#include "../private.h"\n#include "common.h"\n',
        "drivers/far/common.h": "\n",
        "fs/none.c": "int a;\n",
    }.items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_text(text)
    return tmp_path / "source"


FILES = ["fs/none.c", "net/deep/z.c", "net/x.c", "net/y.c"]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("include/linux/b.h", ["net/x.c"]),
        ("arch/x86/include/asm/c.h", ["net/x.c"]),
        ("arch/arm64/include/asm/c.h", []),
        ("include/asm-generic/d.h", ["net/deep/z.c", "net/y.c"]),
        ("net/private.h", ["net/deep/z.c", "net/y.c"]),
        ("drivers/far/common.h", ["net/deep/z.c"]),
        ("include/linux/kconfig.h", FILES),
        ("include/linux/nothing.h", []),
    ],
)
def test_who_may_include_a_header(tree: Path, header: str, found: list[str]) -> None:
    graph = IncludeGraph(tree, "x86", tree.parent / "includes.json")
    assert [name for name in graph.includers(header, FILES) if name in FILES] == found
    again = IncludeGraph(tree, "x86", tree.parent / "includes.json")
    assert again.includers(header, FILES) == graph.includers(header, FILES)
    assert header in again.includers(header, FILES)


@pytest.mark.kernel
def test_debian_s_files_are_found(debian_debug_kernel: Kernel) -> None:
    units = Units.read(debian_debug_kernel)
    (meminfo,) = units.compiled_from("fs/proc/meminfo.c")
    assert (meminfo.owner, meminfo.objects[0]) == ("vmlinux", "fs/proc/meminfo.o")
    (ctree,) = units.compiled_from("fs/btrfs/ctree.c")
    assert ctree.owner == "btrfs"
    assert len(units.mentioning("include/linux/sched.h")) > 4000
    assert not [s for s in units.sources if s.endswith(".c") and s.startswith("/")]


def test_units_of_rust_are_left_out(tmp_path: Path) -> None:
    """vmlinux has them in DWARF 4 beside C's in DWARF 5; gcc writes what rustc would."""
    for name, version in (("a.rs", 4), ("b.c", 5)):
        (tmp_path / name).write_text(f"int {name[0]}(void) {{ return 1; }}\n")
        command = [
            "gcc",
            "-g",
            f"-gdwarf-{version}",
            "-x",
            "c",
            "-c",
            "-o",
            f"{name}.o",
            f"./{name}",
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["ld", "-r", "-o", "m.ko", "a.rs.o", "b.c.o"], cwd=tmp_path, check=True)
    assert [unit.source for unit in line_units(ElfFile.read(tmp_path / "m.ko"))] == ["b.c"]


@pytest.mark.parametrize("linked", [False, True])
def test_compressed_debug_information(tmp_path: Path, linked: bool) -> None:
    (tmp_path / "x.c").write_text("int x(void) { return 1; }\n")
    options = ["-g", "-gdwarf-5", "-gz=zlib", "-nostdlib", *([] if linked else ["-c"])]
    command = ["gcc", *options, "-Wl,-e,x", "-o", "x.o", "./x.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    elf = ElfFile.read(tmp_path / "x.o")
    section = elf.section(".debug_info")
    assert section is not None and section.sh_flags & SHF.COMPRESSED
    assert [unit.source for unit in line_units(elf)] == ["x.c"]
    text = elf.section(".text")
    assert text is not None
    assert Dwarf(elf).unit_at(text.sh_addr, 0 if linked else text.index) is not None


def test_debug_information_that_does_not_decompress(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int x(void) { return 1; }\n")
    command = ["gcc", "-g", "-gdwarf-5", "-gz=zlib", "-c", "-o", "x.o", "./x.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    section = ElfFile.read(tmp_path / "x.o").section(".debug_line_str")
    assert section is not None
    data = bytearray((tmp_path / "x.o").read_bytes())
    for at, byte, said in (
        (24, 0xFF, "section .debug_line_str does not decompress"),
        (0, 2, "section .debug_line_str is compressed by a method that klpbuild does not know"),
    ):
        broken = data.copy()
        broken[section.sh_offset + at] = byte
        (tmp_path / "y.o").write_bytes(broken)
        with pytest.raises(KlpError) as caught:
            ElfFile.read(tmp_path / "y.o").uncompressed(section)
        assert str(caught.value).startswith(f"{tmp_path}/y.o: {said}\n")
