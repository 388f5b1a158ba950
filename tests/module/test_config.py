"""livepatch.toml: what it may say, and what is told when it is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.module.config import Made, read_livepatch
from klpbuild.module.livepatch import (
    Function,
    Livepatch,
    PatchedObject,
    State,
    check_for_kernel,
)
from klpbuild.module.owntables import brings_own_tables
from klpbuild.module.tables import LivepatchApi, generate_tables
from klpbuild.names import object_name

MINIMAL = """\
[[object]]
name = "vmlinux"
functions = [{ old = "f", new = "livepatch_f" }]
"""

OWN_TABLES = """\
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int __init init(void) { return klp_enable_patch(&patch); }
module_init(init);
"""


def _livepatch(directory: Path, toml: str | None = MINIMAL, name: str = "fix") -> Path:
    path = directory / name
    path.mkdir()
    (path / "fix.c").write_text("int livepatch_f(void) { return 1; }\n")
    if toml is not None:
        (path / "livepatch.toml").write_text(toml)
    return path


def _error(path: Path) -> str:
    with pytest.raises(KlpError) as caught:
        read_livepatch(path)
    return str(caught.value).replace(str(path), "DIR")


def test_minimal(tmp_path: Path) -> None:
    path = _livepatch(tmp_path)
    livepatch = read_livepatch(path)
    assert livepatch == Livepatch(
        "fix",
        (path / "fix.c",),
        (PatchedObject("vmlinux", (Function("f", "livepatch_f", 0),)),),
    )
    assert livepatch.replace
    assert livepatch.license == "GPL"
    assert livepatch.objects[0].functions[0].where == f"{path}/livepatch.toml:3"


def test_everything(tmp_path: Path) -> None:
    path = _livepatch(
        tmp_path,
        """
description = "two bugs"
license = "Dual BSD/GPL"
references = ["CVE-2024-1", "https://example.org/2"]
replace = false
kernels = ["fixtures", "6.1.*"]
sources = ["b.c", "a.c"]

[[object]]
name = "drivers/net/snd-pcm.ko"
functions = [
    { old = "open", new = "livepatch_open", sympos = 2 },
    { old = "open", new = "livepatch_open_first", sympos = 1 },
    { old = "release.isra.0", new = "livepatch_release" },
]
callbacks = { pre_patch = "before", post_unpatch = "after" }

[[object]]
name = "vmlinux"
callbacks.post_patch = "announce"
""",
        name="two-bugs",
    )
    (path / "a.c").write_text("")
    (path / "b.c").write_text("")
    livepatch = read_livepatch(path)
    assert [source.name for source in livepatch.sources] == ["b.c", "a.c"]
    assert livepatch.objects == (
        PatchedObject(
            "snd_pcm",
            (
                Function("open", "livepatch_open", 2),
                Function("open", "livepatch_open_first", 1),
                Function("release.isra.0", "livepatch_release"),
            ),
            {"pre_patch": "before", "post_unpatch": "after"},
        ),
        PatchedObject("vmlinux", (), {"post_patch": "announce"}),
    )
    assert livepatch.references == ("CVE-2024-1", "https://example.org/2")
    assert not livepatch.replace
    assert (livepatch.file_name, livepatch.module_name) == (
        "livepatch-two-bugs.ko",
        "livepatch_two_bugs",
    )
    assert livepatch.is_for("fixtures", "6.12.1")
    assert livepatch.is_for("any", "6.1.0-47-cloud-amd64")
    assert not livepatch.is_for("6.12.1", "6.12.1")


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    path = _livepatch(
        tmp_path,
        """\
descripton = "misspelt"
replace = "yes"
license = "Proprietary"
references = ["CVE-1", 2]

[[object]]
name = "vmlinux"
functions = [
    { old = "f", new = "livepatch_f", simpos = 1 },
    { old = "f", new = "livepatch_g", sympos = 1 },
    { old = "h h", new = "2nd", sympos = -1 },
    { old = "same", new = "same" },
    { old = "only" },
    { old = 3, new = "x", sympos = true },
]

[[object]]
name = "kernel/ext-4.ko"
callbacks = { prepatch = "f", post_patch = 7 }

[[object]]
functions = []

[[object]]
name = "ext.4"
""",
    )
    assert (
        _error(path)
        == """\
DIR/livepatch.toml:1: unknown key 'descripton'
  Did you mean 'description'?
DIR/livepatch.toml:2: replace is not true or false: 'yes'
DIR/livepatch.toml:3: license 'Proprietary' cannot be a livepatch's
  klp_enable_patch is exported to GPL-compatible modules only.
  One of: GPL, GPL v2, GPL and additional rights, Dual BSD/GPL, Dual MIT/GPL, Dual MPL/GPL.
DIR/livepatch.toml:4: references holds 2, which is not a text of one line
DIR/livepatch.toml:9: unknown key 'simpos' in function
  Did you mean 'sympos'?
DIR/livepatch.toml:10: function 'f' of 'vmlinux' is given twice
DIR/livepatch.toml:11: old = 'h h' is not the name of a function
DIR/livepatch.toml:11: new = '2nd' is not the name of a function
DIR/livepatch.toml:11: position -1 of 'h h' is negative
  0 for a unique name, else its place from 1 in symbols.klp.
DIR/livepatch.toml:12: function 'same' is to replace itself
  The livepatch could not refer to the original any more.
  Call the new one livepatch_same.
DIR/livepatch.toml:13: function of 'vmlinux' has no 'new'
DIR/livepatch.toml:14: old is not a text: 3
DIR/livepatch.toml:14: sympos is not a number: True
DIR/livepatch.toml:19: unknown key 'prepatch' in callbacks
  Did you mean 'pre_patch'?
DIR/livepatch.toml:19: post_patch is not a text: 7
DIR/livepatch.toml:21: object has no name
  Write name = "vmlinux", or a module.
DIR/livepatch.toml:24: object name 'ext.4' cannot be a module's
  A module's name has 1 to 55 bytes and no dot, and '-' is written '_'.
DIR/livepatch.toml:24: object 'ext.4' has neither functions nor callbacks"""
    )


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("", "DIR/livepatch.toml: no object is patched\n"),
        ("object = 1\n", "DIR/livepatch.toml:1: object is not a list: 1"),
        ("object = [1]\n", "DIR/livepatch.toml:1: object is not a table\n"),
        ("x = [\n\n", "DIR/livepatch.toml: is not TOML: "),
        ("x = 1 2\n", "DIR/livepatch.toml:1: is not TOML: "),
        ("sources = ['../a.c']\n" + MINIMAL, "source '../a.c' is not a C file of this directory"),
        ("sources = ['/a.c']\n" + MINIMAL, "source '/a.c' is not a C file of this directory"),
        ("sources = ['a.S']\n" + MINIMAL, "source 'a.S' is not a C file of this directory"),
        (
            "sources = ['fox.c']\n" + MINIMAL,
            "DIR/livepatch.toml:1: source 'fox.c' does not exist\n  Did you mean 'fix.c'?",
        ),
        ("sources = ['fix.c', 'fix.c']\n" + MINIMAL, "two sources are called fix.c"),
        ("description = 'a\\nb'\n" + MINIMAL.replace("'", '"'), ""),
        ('description = "a\\nb"\n' + MINIMAL, "description has a line break"),
        (
            MINIMAL.replace("livepatch_f", "x" * 600),
            f"DIR/livepatch.toml:3: new = '{'x' * 40}'... is too long, 600 bytes\n"
            "  The kernel looks up names of at most 511 bytes.",
        ),
        (
            'version = "1-rc"\n' + MINIMAL,
            "DIR/livepatch.toml:1: version '1-rc' is not made of numbers\n"
            "  It becomes part of the module's name and the version of packages.\n"
            '  Write version = "1", or "1.2".',
        ),
        ("version = 1\n" + MINIMAL, "DIR/livepatch.toml:1: version is not a text: 1"),
        (
            f'version = "{"1" * 45}"\n' + MINIMAL,
            "DIR/livepatch.toml:1: livepatch name 'fix' is too long\n"
            "  With livepatch- before it and the version after it, it has 59 bytes of 55.",
        ),
        (MINIMAL.replace("vmlinux", "m" * 56), "object name 'm"),
        (MINIMAL.replace("vmlinux", ""), "object has an empty name"),
        (
            MINIMAL + MINIMAL.replace("vmlinux", "./vmlinux"),
            "DIR/livepatch.toml:4: object 'vmlinux' is given twice\n"
            "  The kernel takes one klp_object for each object.\n"
            "  Put all its functions into one.",
        ),
    ],
)
def test_one_problem(tmp_path: Path, toml: str, text: str) -> None:
    path = _livepatch(tmp_path, toml)
    if not text:
        read_livepatch(path)
        return
    assert text in _error(path)


def test_a_function_by_its_name_alone(tmp_path: Path) -> None:
    """That leaves the object without functions is no second error."""
    path = _livepatch(tmp_path, '[[object]]\nname = "vmlinux"\nfunctions = ["f"]\n')
    assert _error(path) == (
        "DIR/livepatch.toml:3: function of 'vmlinux' is not a table\n"
        '  Write { old = "f", new = "livepatch_f" }.'
    )


def test_not_utf8(tmp_path: Path) -> None:
    path = _livepatch(tmp_path)
    (path / "livepatch.toml").write_bytes(b'description = "\xff"\n')
    assert _error(path) == "DIR/livepatch.toml: is not UTF-8"


@given(st.text())
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, toml: str) -> None:
    path = _livepatch(tmp_path_factory.mktemp("any"), None)
    (path / "livepatch.toml").write_bytes(toml.encode(errors="surrogatepass"))
    with pytest.raises(KlpError) as caught:
        read_livepatch(path)
    assert f"{path}/livepatch.toml" in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "fixé", "x" * 60, "a.b"])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    path = _livepatch(tmp_path, name=name)
    with pytest.raises(KlpError, match="livepatch name"):
        read_livepatch(path)


def test_longest_name(tmp_path: Path) -> None:
    name = "x" * (55 - len("livepatch-"))
    assert len(read_livepatch(_livepatch(tmp_path, name=name)).module_name) == 55
    with pytest.raises(KlpError, match="has 56 bytes of 55"):
        read_livepatch(_livepatch(tmp_path, name=name + "x"))


def test_the_version_is_in_the_modules_name(tmp_path: Path) -> None:
    livepatch = read_livepatch(_livepatch(tmp_path, 'version = "1.2"\n' + MINIMAL))
    assert livepatch.file_name == "livepatch-fix-1_2.ko"
    assert livepatch.module_name == "livepatch_fix_1_2"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nests tables and lists deeper than 8"),
        ("a = " + "{b = " * 5000 + "1" + "}" * 5000, "nests tables and lists deeper than 8"),
        ("x = {" + ".".join(['"a"'] * 10_000) + " = 1}", "nests tables and lists deeper than 8"),
        ("[" + ".".join("a" * 30_000) + "]", "nests tables and lists deeper than 8"),
        ("a.b.c.d.e.f.g.h.i.j = 1", "nests tables and lists deeper than 8"),
        (f"a = {'9' * 5000}", "has a number of more than 64 bits"),
        (f"a = 0x{'f' * 5000}", "has a number of more than 64 bits"),
        ("a = [[[18446744073709551616]]]", "has a number of more than 64 bits"),
        ("a" * 65537, "has more than 65536 bytes"),
    ],
    ids=lambda value: value[:30],
)
def test_a_description_is_small(tmp_path: Path, text: str, error: str) -> None:
    path = _livepatch(tmp_path, text)
    assert _error(path) == f"DIR/livepatch.toml: {error}"


def test_a_description_with_many_faults(tmp_path: Path) -> None:
    path = _livepatch(tmp_path, "".join(f"{number:x} = {number}\n" for number in range(4000)))
    assert _error(path).count("unknown key") == 100
    long = _livepatch(tmp_path, f'sources = "{"a" * 5000}"', "other")
    assert f"sources is not a list: '{'a' * 96}..." in _error(long)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    path = _livepatch(tmp_path, None)
    (path / "livepatch.toml").symlink_to("/dev/zero")
    assert _error(path) == "DIR/livepatch.toml: is not a file"
    (path / "livepatch.toml").unlink()
    os.mkfifo(path / "pipe.c")
    assert _error(path) == "DIR/pipe.c: is not a file"


def test_a_comment_without_end_takes_no_time(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("/*" + "/ /*" * 100_000 + OWN_TABLES)
    assert not brings_own_tables(source)


@pytest.mark.parametrize(
    "name", ["e()xt4", 'ext4"', "ext4;int x", "ext4 ", "ext4\n", "ört", "a[]", "{}", "ext4\\"]
)
def test_object_names_reach_c_code(tmp_path: Path, name: str) -> None:
    path = _livepatch(tmp_path, MINIMAL.replace('"vmlinux"', json.dumps(name)))
    assert _error(path) == (
        f"DIR/livepatch.toml:1: object name {name!r} cannot be a module's\n"
        "  A module's name has letters, digits and '_' only; '-' is written '_'."
    )
    with pytest.raises(KlpError, match="cannot be a module's"):
        generate_tables(Livepatch("x", (), (PatchedObject(name, ()),)), LivepatchApi(*[True] * 3))


@pytest.mark.parametrize("name", ["ext4", "snd-hda-codec", "kernel/fs/nls/nls_iso8859-1.ko.xz"])
def test_object_names_that_kernels_have(tmp_path: Path, name: str) -> None:
    path = _livepatch(tmp_path, MINIMAL.replace("vmlinux", name))
    assert read_livepatch(path).objects[0].name == object_name(name)


@pytest.mark.parametrize(
    ("sympos", "what"),
    [
        ("-1", "negative"),
        ("-9223372036854775808", "negative"),
        ("4294967296", "larger than the kernel counts"),
        ("0x7fffffffffffffff", "larger than the kernel counts"),
    ],
)
def test_positions_that_no_kernel_counts(tmp_path: Path, sympos: str, what: str) -> None:
    toml = MINIMAL.replace('"livepatch_f"', f'"livepatch_f", sympos = {sympos}')
    assert _error(_livepatch(tmp_path, toml)) == (
        f"DIR/livepatch.toml:3: position {int(sympos, 0)} of 'f' is {what}\n"
        "  0 for a unique name, else its place from 1 in symbols.klp."
    )


def test_own_tables_need_no_description(tmp_path: Path) -> None:
    path = _livepatch(tmp_path, None)
    assert _error(path).startswith(
        "DIR: has no livepatch.toml\n"
        "  Its sources enable no struct klp_patch either, so nothing says what they replace.\n"
    )
    (path / "main.c").write_text(OWN_TABLES)
    livepatch = read_livepatch(path)
    assert livepatch.own_tables
    assert [source.name for source in livepatch.sources] == ["fix.c", "main.c"]
    assert livepatch.objects == ()


def test_own_tables_and_objects_exclude_each_other(tmp_path: Path) -> None:
    path = _livepatch(tmp_path)
    (path / "main.c").write_text(OWN_TABLES)
    assert _error(path) == (
        "DIR/livepatch.toml:1: main.c brings its own struct klp_patch\n"
        "  Two sets of tables in one module would patch twice.\n"
        "  Take the objects out of livepatch.toml, or the tables out of main.c."
    )
    (path / "livepatch.toml").write_text('kernels = ["fixtures"]\n')
    assert read_livepatch(path).own_tables


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (OWN_TABLES, True),
        ("static struct klp_patch *p;\nvoid f(void) { klp_enable_patch(p); }\n", True),
        ("static struct klp_patch *p;\nvoid f(void) { p->mod = THIS_MODULE; }\n", False),
        ("/*" + OWN_TABLES + "*/\n", False),
        ('char *s = "/*";\n' + OWN_TABLES + 'char *t = "*/";\n', True),
        ("".join("// " + line for line in OWN_TABLES.splitlines(True)), False),
        ("struct klp_patch\n  patch\n  = { };\nint init_module(void) { return 0; }\n", True),
    ],
)
def test_tables_are_recognised(tmp_path: Path, text: str, own: bool) -> None:
    source = tmp_path / "a.c"
    source.write_text(text)
    assert brings_own_tables(source) is own


@pytest.mark.parametrize(
    ("include", "own"),
    [
        ('#include "tables.h"', True),
        ("#include <tables.h>", True),
        ('#include "deep/other.h"', True),
        ('#include "../beside/tables.h"', True),
        ('// #include "tables.h"', False),
        ('#include "empty.h"', False),
        ("#include <linux/livepatch.h>", False),
        ('#include "fs/ext4/ext4.h"', False),
        ('#include "samples/livepatch/livepatch-sample.c"', True),
    ],
)
def test_tables_in_included_files(tmp_path: Path, include: str, own: bool) -> None:
    source = tmp_path / "mine" / "main.c"
    for name, text in {
        "mine/main.c": f"{include}\n",
        "mine/tables.h": OWN_TABLES,
        "mine/deep/other.h": '#include "tables.h"\n#include "../main.c"\n',
        "beside/tables.h": OWN_TABLES,
        "mine/empty.h": "int x;\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert brings_own_tables(source) is own


def test_a_c_file_that_another_one_includes_is_not_compiled_alone(tmp_path: Path) -> None:
    path = _livepatch(tmp_path)
    (path / "main.c").write_text('#include "part.c"\n')
    (path / "part.c").write_text("int part;\n")
    assert [source.name for source in read_livepatch(path).sources] == ["fix.c", "main.c"]


def test_directory_without_anything(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert _error(tmp_path / "empty") == "DIR: has no C source\n  Write one and livepatch.toml."
    assert _error(tmp_path / "missing") == "DIR: is not a directory"


def test_patches_need_neither_sources_nor_objects(tmp_path: Path) -> None:
    path = tmp_path / "fix"
    path.mkdir()
    assert read_livepatch(path, Made.PATCHES) == Livepatch("fix", ())
    (path / "livepatch.toml").write_text('description = "from a patch"\n')
    assert read_livepatch(path, Made.PATCHES).description == "from a patch"


def test_patches_say_themselves_which_functions_change(tmp_path: Path) -> None:
    (tmp_path / "fix").mkdir()
    path = tmp_path / "fix" / "livepatch.toml"
    path.write_text(
        '[[object]]\nname = "button"\ncallbacks = { post_patch = "raise_it" }\n'
        'functions = [{ old = "work", new = "new_work" }]\n'
    )
    with pytest.raises(KlpError) as caught:
        read_livepatch(path.parent, Made.PATCHES)
    assert str(caught.value) == (
        f"{path}:4: object 'button' has functions, and patches make this livepatch\n"
        "  Which functions a patch changes is found by compiling it.\n"
        "  Take the key functions out; callbacks may stay."
    )


def test_other_kernel(tmp_path: Path) -> None:
    livepatch = read_livepatch(_livepatch(tmp_path, 'kernels = ["fixtures"]\n' + MINIMAL))
    check_for_kernel(livepatch, "fixtures", "6.1.0-fixtures")
    with pytest.raises(KlpError) as caught:
        check_for_kernel(livepatch, "6.12.1-amd64", "6.12.1-amd64")
    assert str(caught.value) == (
        "livepatch fix is not for kernel 6.12.1-amd64\n"
        "  Its livepatch.toml restricts it to: fixtures.\n"
        "  Take another kernel, or change the key kernels."
    )


def test_samples_of_the_project(tmp_path: Path) -> None:
    samples = Path(__file__).parents[2] / "kernel-fixtures" / "livepatches"
    names = [path.name for path in sorted(samples.iterdir()) if path.is_dir()]
    assert "meminfo" in names
    for name in names:
        if not list((samples / name).glob("*.patch")):
            assert read_livepatch(samples / name).name == name


def skipping(tmp_path: Path, text: str) -> Livepatch:
    """A livepatch of patches with a line in its description."""
    directory = tmp_path / "fixes"
    directory.mkdir(exist_ok=True)
    (directory / "livepatch.toml").write_text(text)
    return read_livepatch(directory, Made.PATCHES)


def test_patches_that_are_left_out_on_purpose(tmp_path: Path) -> None:
    text = 'skip = ["a.patch",\n  { patch = "b.patch", reason = "needs a reboot" }]\n'
    first, second = skipping(tmp_path, text).skip
    assert (first.patch, first.reason) == ("a.patch", "")
    assert (second.patch, second.reason) == ("b.patch", "needs a reboot")
    assert second.where.endswith("livepatch.toml:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip = [3]", "skip does not name a patch"),
        ('skip = [{ reason = "x" }]', "skip does not name a patch"),
        ("skip = [{ patch = 3 }]", "patch is not a text: 3"),
        ('skip = [{ patch = "a.patch", why = "x" }]', "unknown key 'why' in skip"),
        ('skip = "a.patch"', "skip is not a list: 'a.patch'"),
    ],
)
def test_what_skip_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KlpError) as caught:
        skipping(tmp_path, text)
    assert f"livepatch.toml:1: {message}\n" in f"{caught.value}\n"


def test_what_stays_behind(tmp_path: Path) -> None:
    path = _livepatch(tmp_path, MINIMAL)
    assert read_livepatch(path).states == ()
    (path / "more.c").write_text("void *f(void) { return klp_shadow_alloc(0, 1, 2, 3, 0, 0); }")
    assert read_livepatch(path).states == (State(path.name),)
    (path / "more.c").write_text("/* klp_shadow_alloc */")
    assert read_livepatch(path).states == ()
    (path / "livepatch.toml").write_text("state_version = 3\n" + MINIMAL)
    assert read_livepatch(path).states == (State(path.name, 3),)
    (path / "livepatch.toml").write_text("state_version = -1\n" + MINIMAL)
    with pytest.raises(KlpError, match=r":1: state_version = -1 is not between 0 and 4294967295"):
        read_livepatch(path)
