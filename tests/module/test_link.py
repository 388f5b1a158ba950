"""Modules linked by kbuild's modpost and linker script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from klpbuild.compiler.driver import compile_source
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from klpbuild.module.link import link_module, missing_namespaces
from klpbuild.symbols.symvers import Exports
from tests.compiler.kernels import SOURCE
from tests.module.livepatches import CMDLINE, CMDLINE_TOML, link_livepatch, write_livepatch
from tests.objects import compile_c, functions_with_entry


def _modinfo(elf: ElfFile) -> dict[str, list[str]]:
    section = elf.section(".modinfo")
    assert section is not None
    found: dict[str, list[str]] = {}
    for text in filter(None, bytes(elf.contents(section)).decode().split("\0")):
        name, _, value = text.partition("=")
        found.setdefault(name, []).append(value)
    return found


def _check_cmdline(kernel: Kernel, path: Path) -> ElfFile:
    """What the linked livepatch of /proc/cmdline must be."""
    elf = ElfFile.read(path)
    info = _modinfo(elf)
    assert info["name"] == ["livepatch_cmdline"]
    assert info["livepatch"] == ["Y"]
    assert info["vermagic"][0].startswith(kernel.release + " ")
    undefined = {s.name for s in elf.symbol_list if s.name and not s.st_shndx}
    assert {"saved_command_line", "klp_enable_patch", "seq_printf"} <= undefined
    assert "livepatch_cmdline_proc_show" in functions_with_entry(elf)
    assert not [s.name for s in elf.sections if s.name.startswith((".debug", ".rela.debug"))]
    assert elf.section(".gnu.linkonce.this_module") is not None
    return elf


def test_livepatch_for_the_miniature_kernel(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
    built = link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert built.path == tmp_path / "out" / "livepatch-cmdline.ko"
    _check_cmdline(fixtures_kernel, built.path)
    # the user is not told what is meant to be; the log has it
    assert built.warnings == ()
    log = built.log.path.read_text()
    assert 'WARNING: modpost: "saved_command_line"' in log
    assert "livepatch-cmdline.ko] undefined!" in log


def test_a_name_is_no_warning(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    name = "fix-a-warning-and-an-error"
    directory = write_livepatch(tmp_path / name, CMDLINE_TOML, cmdline=CMDLINE)
    built = link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert built.path.name == f"livepatch-{name}.ko"
    assert built.warnings == ()


def test_many_unresolved_symbols_are_no_news(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    names = [f"unexported_{number}" for number in range(12)]
    calls = "".join(f"extern void {name}(void);\n" for name in names)
    body = " ".join(f"{name}();" for name in names)
    source = CMDLINE.replace("int livepatch", f"{calls}int livepatch").replace(
        "\treturn", f"\t{body}\n\treturn"
    )
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=source)
    built = link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert built.warnings == ()
    assert "modpost: suppressed 3 unresolved symbol warnings" in built.log.path.read_text()


def test_bytes_do_not_depend_on_the_directories(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    places = (tmp_path / "one", tmp_path / "another" / "checkout")
    results = []
    for place in places:
        directory = write_livepatch(place / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
        built = link_livepatch(fixtures_kernel, directory, place / "build" / "out")
        results.append(built.path.read_bytes())
    assert results[0] == results[1]


def test_nothing_is_written_outside(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
    tree = fixtures_kernel.build
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before
    assert sorted(p.name for p in directory.iterdir()) == ["cmdline.c", "livepatch.toml"]


def test_one_object_with_the_modules_own_name(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    source = tmp_path / "livepatch-own.c"
    source.write_text('#include <linux/module.h>\nMODULE_LICENSE("GPL");\nint x;\n')
    done = compile_source(
        fixtures_kernel, source, tmp_path / "livepatch-own.o", module_name="livepatch_own"
    )
    path = link_module(fixtures_kernel, "livepatch-own", [done.output], tmp_path)
    assert _modinfo(ElfFile.read(path))["name"] == ["livepatch_own"]


def test_many_objects_of_one_name(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    objects = []
    for number in range(12):
        source = tmp_path / str(number) / "same.c"
        source.parent.mkdir()
        license_ = 'MODULE_LICENSE("GPL");' if not number else ""
        source.write_text(f"#include <linux/module.h>\n{license_}\nint v{number} = 1;\n")
        output = source.with_suffix(".o")
        compile_source(fixtures_kernel, source, output, module_name="livepatch_many")
        objects.append(output)
    elf = ElfFile.read(link_module(fixtures_kernel, "livepatch-many", objects, tmp_path / "out"))
    places = {s.st_value: s.name for s in elf.symbol_list if s.name.startswith("v")}
    # in the order given, not in that of the names: v10 follows v9
    assert [places[place] for place in sorted(places)] == [f"v{n}" for n in range(12)]


def test_two_definitions(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    again = "int livepatch_cmdline_proc_show;"
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE, again=again)
    with pytest.raises(KlpError) as caught:
        link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}/out/cmdline.o: symbol 'livepatch_cmdline_proc_show' is defined twice\n"
        f"  It is defined by {tmp_path}/out/again.o, too.\n"
        "  Make one of them static, or give it another name."
    )
    assert not (tmp_path / "out" / "livepatch-cmdline.ko").exists()


def test_a_start_of_its_own(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    start = "static int begin(void) { return 0; }\nmodule_init(begin);\n"
    code = f"#include <linux/module.h>\n{CMDLINE}{start}"
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=code)
    with pytest.raises(KlpError) as caught:
        link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert "symbol 'init_module' is defined twice" in str(caught.value)
    assert "Take module_init() and module_exit() out" in str(caught.value)


def test_kbuilds_errors_are_shown(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    # GPL-only klp_enable_patch in a module without a licence
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
    built = link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    tables = tmp_path / "out" / "tables.o"
    tables.write_bytes(tables.read_bytes().replace(b"license=GPL\0", b"license=NO!\0"))
    with pytest.raises(KlpError) as caught:
        link_module(fixtures_kernel, "livepatch-cmdline", [tables], tmp_path / "again", built.log)
    text = str(caught.value)
    assert "kbuild failed: make modules" in text
    assert "GPL-incompatible module livepatch-cmdline.ko uses GPL-only symbol" in text
    assert f"The whole output is in {tmp_path}/out/build.log." in text


def test_failed_link_leaves_the_last_module(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
    good = link_livepatch(fixtures_kernel, directory, tmp_path / "out").path.read_bytes()
    (directory / "again.c").write_text("int livepatch_cmdline_proc_show;")
    with pytest.raises(KlpError):
        link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    assert (tmp_path / "out" / "livepatch-cmdline.ko").read_bytes() == good


def test_own_tables_are_left_alone(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    own = """
#include <linux/module.h>
#include <linux/livepatch.h>
static int shown(void) { return 1; }
static struct klp_func funcs[] = { { .old_name = "f", .new_func = shown }, { } };
static struct klp_object objs[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int livepatch_init(void) { return klp_enable_patch(&patch); }
static void livepatch_exit(void) { }
module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""
    directory = write_livepatch(tmp_path / "own", "", main=own)
    built = link_livepatch(fixtures_kernel, directory, tmp_path / "out")
    info = _modinfo(ElfFile.read(built.path))
    assert info["livepatch"] == ["Y"]
    assert "description" not in info


@pytest.mark.slow
def test_linker_script_that_drops_the_entries(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "source")
    script = tmp_path / "source" / "arch" / "x86" / "module.lds"
    text = script.read_text()
    kept = next(line for line in text.splitlines(True) if "KEEP(*(__mcount_loc))" in line)
    script.write_text(text.replace(kept, "").replace("*(.discard)", "*(.discard) *(__mcount_loc)"))
    kernel = locate("fixtures", fixtures=tmp_path / "source", output=tmp_path / "kernel")
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
    with pytest.raises(KlpError) as caught:
        link_livepatch(kernel, directory, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}/out/kbuild/livepatch-cmdline.ko: the linked module has no section "
        "__mcount_loc\n"
        "  Without it the kernel can neither trace nor reliably unwind the livepatch.\n"
        "  Its objects were not compiled by this kernel's rules."
    )


def test_namespaces_to_import(tmp_path: Path) -> None:
    symvers = tmp_path / "Module.symvers"
    lines = [
        "0x1\tbuffer_put\tvmlinux\tEXPORT_SYMBOL_GPL\tDMA_BUF",
        "0x2\tbuffer_get\tvmlinux\tEXPORT_SYMBOL_GPL\tDMA_BUF",
        "0x3\tcxl_add\tvmlinux\tEXPORT_SYMBOL_GPL\tCXL",
        "0x4\tmana_post\tdrivers/net/mana\tEXPORT_SYMBOL_GPL\tNET_MANA",
        "0x5\tplain\tvmlinux\tEXPORT_SYMBOL\t",
    ]
    symvers.write_text("\n".join(lines) + "\n")
    exports = Exports.read(symvers)
    calls = "extern void {0}(void); void use_{0}(void) {{ {0}(); }}\n"
    names = ("buffer_put", "buffer_get", "cxl_add", "mana_post", "plain", "unknown")
    source = "".join(calls.format(name) for name in names)
    elf = ElfFile.read(compile_c(tmp_path, source))
    assert missing_namespaces([elf], exports) == ("CXL", "DMA_BUF")
    imported = """
__attribute__((section(".modinfo"), used)) static const char a[] = "import_ns=CXL";
__attribute__((section(".modinfo"), used)) static const char b[] = "license=GPL";
"""
    other = ElfFile.read(compile_c(tmp_path, imported, name="other"))
    assert missing_namespaces([elf, other], exports) == ("DMA_BUF",)


@pytest.mark.kernel
@pytest.mark.parametrize("which", ["debian_kernel", "newest_kernel"])
def test_livepatch_for_debians_kernel(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    kernel: Kernel = request.getfixturevalue(which)
    results = []
    for place in ("one", "two"):
        directory = write_livepatch(tmp_path / place / "cmdline", CMDLINE_TOML, cmdline=CMDLINE)
        built = link_livepatch(kernel, directory, tmp_path / place / "out")
        assert built.warnings == ()
        results.append(built.path.read_bytes())
    assert results[0] == results[1]
    elf = _check_cmdline(kernel, built.path)
    for name in (".orc_unwind", ".orc_unwind_ip", "__mcount_loc", ".return_sites", "__versions"):
        section = elf.section(name)
        assert section is not None and section.sh_flags & SHF.ALLOC, name
    assert elf.section(".BTF") is None


@pytest.mark.kernel
def test_namespace_of_debians_kernel_is_imported(debian_kernel: Kernel, tmp_path: Path) -> None:
    exports = Exports.read(debian_kernel.module_symvers)
    export = next(e for e in exports.of("vmlinux") if e.namespace)
    source = f"""
extern void {export.symbol}(void);
int livepatch_cmdline_proc_show(void *m, void *v);
int livepatch_cmdline_proc_show(void *m, void *v) {{ {export.symbol}(); return 0; }}
"""
    directory = write_livepatch(tmp_path / "cmdline", CMDLINE_TOML, cmdline=source)
    built = link_livepatch(debian_kernel, directory, tmp_path / "out")
    assert _modinfo(ElfFile.read(built.path))["import_ns"] == [export.namespace]
    assert not [line for line in built.warnings if "namespace" in line]
