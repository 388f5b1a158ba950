"""scons as a user runs it, on the miniature kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from klpbuild.request.variables import NAMES
from tests.scons.checkout import ROOT, Checkout


def test_the_main_job(shared: Checkout) -> None:
    build = shared.directory / "build/fixtures"
    assert (build / "livepatch-meminfo.ko").is_file()
    assert (build / "symbols.klp").read_text().startswith("klp-convert-symbol-data.0.1\n*vmlinux\n")
    assert "gcc" in (build / "build.log").read_text()
    for kind in ("graphml", "dot", "json"):
        assert "si_swapinfo" in (build / f"livepatch-meminfo.{kind}").read_text()
    listing = subprocess.run(
        ["readelf", "-SsW", build / "livepatch-meminfo.ko"],
        text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert ".klp.rela.vmlinux.text" in listing
    assert ".klp.sym.vmlinux.si_swapinfo,0" in listing


def test_nothing_changed(shared: Checkout) -> None:
    assert shared.scons("livepatch=meminfo") == "scons: `livepatch' is up to date.\n"


def test_the_cost_of_each_step_is_shown(shared: Checkout) -> None:
    (shared.directory / "build/fixtures/livepatch-meminfo.graphml").unlink()
    said = re.sub(r"\d+\.\d\d", "1.00", shared.scons("livepatch=meminfo", "timings=1"))
    assert said.endswith(
        " seconds  processor  step\n"
        "    1.00       1.00  start\n"
        "    1.00       1.00  GRAPH  livepatch-meminfo.graphml\n"
        "    1.00       1.00  all\n"
    )


def test_nothing_is_written_into_the_sources(shared: Checkout) -> None:
    def files(top: Path) -> set[Path]:
        return {p.relative_to(top) for p in top.rglob("*") if "__pycache__" not in p.parts}

    name = "kernel-fixtures"
    assert files(shared.directory / name) == files(ROOT / name)


def test_a_changed_source_is_compiled_and_converted(checkout: Checkout) -> None:
    source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
    source.write_text(source.read_text().replace("MemFree:", "MemUnused:"))
    assert checkout.built("livepatch=meminfo") == {
        "livepatch-meminfo/meminfo.o",
        "livepatch-meminfo/inputs.o",
        "livepatch-meminfo/linked/livepatch-meminfo.ko",
        "livepatch-meminfo/dependencies",
        "livepatch-meminfo.ko",
        "livepatch-meminfo.graphml",
        "livepatch-meminfo.provenance.json",
    }


def test_which_rules_were_not_checked(checkout: Checkout) -> None:
    """One word shows them: V=1."""
    module = checkout.directory / "build/fixtures/livepatch-meminfo.ko"
    for words in ((), ("V=1",)):
        module.unlink()
        said = checkout.scons("livepatch=meminfo", *words)
        assert "nothing found, 89 of 92 rules checked\n" in said
        line = (
            "          3 rules not checked: only the running system can tell "
            "(KLP606, KLP607, KLP608; `klpbuild check -v` lists them)\n"
        )
        assert (line in said) == bool(words)


def test_a_changed_description_compiles_only_the_tables(checkout: Checkout) -> None:
    description = checkout.directory / "kernel-fixtures/livepatches/meminfo/livepatch.toml"
    description.write_text('description = "other"\n' + description.read_text().split("\n", 1)[1])
    built = checkout.built("livepatch=meminfo")
    assert "livepatch-meminfo/tables.o" in built
    assert "livepatch-meminfo/meminfo.o" not in built
    assert "symbols.klp" not in built


@pytest.mark.slow
def test_a_module_that_the_livepatch_does_not_use(shared: Checkout) -> None:
    shared.scons("livepatch=meminfo")
    module = shared.directory / "build/fixtures/kernel/sound/core/snd-pcm.ko"
    before = module.read_bytes()
    # A namesake of what the livepatch uses, in a module that it has nothing to do with.
    module.write_bytes(before.replace(b"snd_pcm_devices\0", b"si_swapinfo\0\0\0\0\0"))
    assert module.read_bytes() != before
    try:
        assert shared.built("livepatch=meminfo") == {
            "symbols.klp",
            "livepatch-meminfo/dependencies",
        }
    finally:
        module.write_bytes(before)
        shared.scons("livepatch=meminfo")


def test_a_comment_in_the_description_builds_nothing(checkout: Checkout) -> None:
    description = checkout.directory / "kernel-fixtures/livepatches/meminfo/livepatch.toml"
    description.write_text("# a comment\n\n" + description.read_text() + "# a comment\n")
    assert checkout.built("livepatch=meminfo") == set()


def test_a_change_in_klpbuild_itself_counts(shared: Checkout) -> None:
    shared.scons("livepatch=meminfo")
    module = shared.directory / "klpbuild/compiler/entry.py"
    before = module.read_bytes()
    module.write_bytes(before + b"#\n")
    try:
        planned = shared.built("-n", "livepatch=meminfo")
        assert {"symbols.klp", "livepatch-meminfo/meminfo.o", "livepatch-meminfo.ko"} <= planned
    finally:
        module.write_bytes(before)
    assert shared.built("-n", "livepatch=meminfo") == set()


def test_a_touched_kernel_builds_nothing(shared: Checkout) -> None:
    shared.scons("livepatch=meminfo")
    for name in ("System.map", "Module.symvers", "fs/ext4/ext4.ko"):
        (shared.directory / "build/fixtures/kernel" / name).touch()
    assert shared.built("livepatch=meminfo") == set()


def test_a_touched_source_builds_nothing(checkout: Checkout) -> None:
    (checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c").touch()
    assert checkout.built("livepatch=meminfo") == set()


@pytest.mark.slow
def test_a_header_of_the_livepatch_counts(checkout: Checkout) -> None:
    directory = checkout.directory / "kernel-fixtures/livepatches/meminfo"
    source, header = directory / "meminfo.c", directory / "meminfo.h"
    header.write_text("#define NAME 1\n")
    try:
        source.write_text('#include "meminfo.h"\n' + source.read_text())
        assert "livepatch-meminfo/meminfo.o" in checkout.built("livepatch=meminfo")
        assert checkout.built("livepatch=meminfo") == set()
        header.write_text("#define NAME 2\n")
        assert "livepatch-meminfo/meminfo.o" in checkout.built("livepatch=meminfo")
    finally:
        header.unlink()


def test_a_source_that_does_not_compile(checkout: Checkout) -> None:
    source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
    source.write_text(source.read_text().replace("si_meminfo(&i);", "si_meminfo(&i)"))
    text = checkout.scons("livepatch=meminfo", status=2)
    assert "meminfo.c:22:" in text
    assert "before" in text and "expected" in text


def test_an_ambiguous_symbol_leaves_no_module_behind(checkout: Checkout) -> None:
    source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
    changed = source.read_text().replace(
        "si_meminfo(&i);", "si_meminfo(&i); seq_puts(m, __param_str_reset);"
    ).replace("static void", "extern const char __param_str_reset[];\nstatic void", 1)  # fmt: skip
    source.write_text(changed)
    text = checkout.scons("livepatch=meminfo", status=2)
    assert "symbol '__param_str_reset' is ambiguous: there are 2" in text
    assert "i8042.c" in text and "atkbd.c" in text
    assert "KLP_MODULE_RELOC(vmlinux)" in text
    assert not (checkout.directory / "build/fixtures/livepatch-meminfo.ko").exists()


@pytest.mark.parametrize(
    ("old", "text"),
    [
        ("no_such_function", "function no_such_function is not in vmlinux"),
        ("start_kernel", "function start_kernel of vmlinux is in .init.text"),
    ],
)
def test_a_function_that_cannot_be_replaced(checkout: Checkout, old: str, text: str) -> None:
    description = checkout.directory / "kernel-fixtures/livepatches/meminfo/livepatch.toml"
    changed = description.read_text().replace('old = "meminfo_proc_show"', f'old = "{old}"')
    description.write_text(changed)
    assert text in checkout.scons("livepatch=meminfo", status=2)


TABLES = """\
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#define ENABLE(patch) klp_enable_patch(patch)
static int show(struct seq_file *m, void *v) { seq_puts(m, "own\\n"); return 0; }
static struct klp_func funcs[] = { { .old_name = "cmdline_proc_show", .new_func = show }, { } };
static struct klp_object objs[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int start(void) { return ENABLE(&patch); }
module_init(start);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""


def test_own_tables_in_files_that_are_included(shared: Checkout, tmp_path: Path) -> None:
    for name, files in {
        "c-file": {"main.c": '#include "tables.c"\n', "tables.c": TABLES},
        "header": {"main.c": "#include <tables.h>\n", "tables.h": TABLES},
        "unused": {"main.c": TABLES.replace("ENABLE(&patch)", "0")},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    text = shared.scons("-k", f"livepatches={tmp_path}", "livepatch=all", status=2)
    assert "c-file     would load" in text and "header     would load" in text
    assert f"{tmp_path}/unused: has no livepatch.toml\n  Its sources enable no struct" in text


def test_tables_beside_objects(shared: Checkout, tmp_path: Path) -> None:
    directory = tmp_path / "twice"
    directory.mkdir()
    (directory / "main.c").write_text('#include "tables.h"\nint x(void) { return 1; }\n')
    (directory / "tables.h").write_text(TABLES)
    (directory / "livepatch.toml").write_text(
        '[[object]]\nname = "vmlinux"\nfunctions = [{ old = "version_proc_show", new = "x" }]\n'
    )
    text = shared.scons(f"livepatches={tmp_path}", "livepatch=twice", status=2)
    assert (
        f"{directory}/livepatch.toml: main.c brings its own struct klp_patch\n"
        "  Two sets of tables in one module would patch twice.\n"
        "  Take the objects out of livepatch.toml, or the tables out of main.c.\n"
    ) in text


STRUCTURE = """
#include <linux/kernel.h>
#include "attr.h"
ssize_t show(struct kobject *object, struct attribute *attr, char *buf)
{ return sprintf(buf, "%d\\n", ((struct ext4_attr *)attr)->attr_id); }
"""
HEADER = """
#include <linux/sysfs.h>
struct ext4_attr { struct attribute attr; short attr_id; };
"""


@pytest.mark.slow
def test_a_copy_of_a_private_structure(shared: Checkout, tmp_path: Path) -> None:
    directory = tmp_path / "attr"
    directory.mkdir()
    (directory / "show.c").write_text(STRUCTURE)
    (directory / "attr.h").write_text(HEADER)
    description = (
        '[[object]]\nname = "ext4"\nfunctions = [{ old = "ext4_attr_show", new = "show" }]\n'
    )
    (directory / "livepatch.toml").write_text(description)
    words = (f"livepatches={tmp_path}", "livepatch=attr")
    text = shared.scons(*words, status=2)
    assert f"{directory}/attr.h:3: struct ext4_attr is laid out otherwise in ext4\n" in text
    assert "  Its member attr_id has size 2, there 4.\n" in text
    accepted = 'accept_layouts = ["struct ext4_attr"]\n'
    (directory / "livepatch.toml").write_text(accepted + description)
    shared.scons(*words)
    (directory / "livepatch.toml").write_text(description)
    (directory / "attr.h").write_text(HEADER.replace("short", "int"))
    assert "not compared" not in shared.scons(*words)


@pytest.mark.slow
def test_a_module_beside_the_kernel_s_own(shared: Checkout, tmp_path: Path) -> None:
    """Without its file it may come later; with it its symbols count."""
    build = tmp_path / "driver"
    build.mkdir()
    (build / "Makefile").write_text("obj-m := vendor-driver.o\n")
    (build / "vendor-driver.c").write_text(
        "#include <linux/module.h>\n"
        "static int level = 3;\n"
        "int vendor_level(void);\nvoid vendor_raise(void);\nvoid vendor_raise(void) { level++; }\n"
        "noinline int vendor_level(void) { return level; }\n"
        'MODULE_LICENSE("GPL");\n'
    )
    kernel = shared.directory / "build/fixtures/kernel"
    make = ["make", "-s", "-C", kernel, f"M={build}", "modules"]
    subprocess.run(make, check=True, capture_output=True)
    fix = tmp_path / "fixes" / "driver"
    fix.mkdir(parents=True)
    (fix / "level.c").write_text(
        "extern int level;\nint new_level(void);\nint new_level(void) { return level + 1; }\n"
    )
    (fix / "livepatch.toml").write_text(
        '[[object]]\nname = "vendor-driver"\n'
        'functions = [{ old = "vendor_level", new = "new_level" }]\n'
    )
    words = (f"livepatches={tmp_path}/fixes", "livepatch=driver")
    text = shared.scons(*words, status=2)
    assert (
        "livepatch-driver.ko: not checked whether object vendor_driver has what is patched: this "
        "kernel has no module of that name, which may come later (modules= names further ones)\n"
    ) in text
    assert "If vendor_driver has it, name that module's file by modules=" in text
    text = shared.scons(*words, f"modules={build}/vendor-driver.ko")
    assert "1 livepatch symbol" in text and "not checked" not in text
    module = shared.directory / "build/fixtures/livepatch-driver.ko"
    symbols = subprocess.run(["readelf", "-sW", module], capture_output=True, text=True, check=True)
    assert ".klp.sym.vendor_driver.level,0" in symbols.stdout
    (fix / "level.c").write_text("int new_level(void);\nint new_level(void) { return 5; }\n")
    assert "1 warning" in shared.scons(*words)


def test_sources_that_are_called_like_what_klpbuild_makes(shared: Checkout, tmp_path: Path) -> None:
    directory = shared.directory / "kernel-fixtures/livepatches/meminfo"
    (tmp_path / "names").mkdir()
    shutil.copy(directory / "livepatch.toml", tmp_path / "names")
    shutil.copy(directory / "meminfo.c", tmp_path / "names" / "tables.c")
    (tmp_path / "names" / "inputs.c").write_text("int unused_input;\n")
    shared.scons(f"livepatches={tmp_path}", "livepatch=names")
    assert (shared.directory / "build/fixtures/livepatch-names.ko").is_file()


def test_several_livepatches_at_once(shared: Checkout) -> None:
    shared.scons("-j2", "livepatch=cmdline,version")
    build = shared.directory / "build/fixtures"
    assert (build / "livepatch-cmdline.ko").is_file()
    assert (build / "livepatch-version.ko").is_file()


def test_help_names_every_option_with_default_and_example(shared: Checkout) -> None:
    text = shared.scons("-h")
    ours = text.partition("Use scons -H")[0]
    assert ours.startswith("Builds Linux livepatch modules: loadable modules that replace")
    assert max(map(len, ours.splitlines())) <= 80
    options = (
        "livepatch",
        "livepatches",
        "kernel",
        "vmlinux",
        "system_map",
        "kallsyms",
        "watch",
        "launcher",
        "cache",
        "modules",
        "packages",
        "junit",
        "sarif",
        "timings",
    )
    for option in (*options, "V"):
        assert f"\n  {option:<12} " in text
    for name in NAMES:
        assert f"\n  {name:<17} " in text
    told = len(options) + 1 + len(NAMES)
    assert text.count("default: ") == text.count("example: ") == told


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("livpatch=meminfo",),
         "scons: error: option 'livpatch' is not known\n"
         "  Did you mean livepatch?\n"
         "  Known: ARCH, CC, COMPRESS, CROSS_COMPILE, DESTDIR, KCFLAGS, KDIR, KSRC, KVER, PREFIX, "
         "REPLACE, SIGN_CERT, SIGN_HASH, SIGN_KEY, SOURCE_DATE_EPOCH, STRIP, SYSTEM_MAP, V, "
         "VMLINUX, cache, junit, kallsyms, kernel, launcher, livepatch, livepatches, modules, "
         "packages, sarif, system_map, timings, vmlinux, watch.\n"),
        (("livepatch=memino",),
         "scons: error: kernel-fixtures/livepatches: livepatch 'memino' is not known\n"
         "  Did you mean meminfo?\n"
         "  Known: button, cmdline, document, homonym, homonyms, meminfo, meminfo-2, version.\n"),
        (("bot",),
         "scons: error: target 'bot' is not known\n"
         "  Did you mean boot?\n"
         "  Known: benchmark, boot, check, compile_commands, dist, install, livepatch, symbols, "
         "test, test-bare-debian, test-hardening, test-kernel, test-machines, uninstall.\n"),
        (("kernel=6.1.0-99",),
         "scons: error: kernel '6.1.0-99' is not known\n"
         "  Fetched kernels: none.\n"
         "  Run `klpbuild kernel fetch 6.1.0-99`, or name the path of a headers or build tree.\n"),
        (("system_map=nowhere",), "scons: error: system_map=nowhere: there is no such file\n"),
        (("livepatch=meminfo", "kernel=fixtures", "boot"), "has no bootable image"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_understood(
    shared: Checkout, words: tuple[str, ...], text: str
) -> None:
    assert text in shared.scons(*words, status=2)


def test_the_sources_of_symbols_give_the_same(shared: Checkout) -> None:
    symbols = shared.directory / "build/fixtures/symbols.klp"
    from_vmlinux = symbols.read_bytes()
    shared.scons("system_map=build/fixtures/kernel/System.map", "symbols")
    assert symbols.read_bytes() == from_vmlinux
    shared.scons("symbols")
