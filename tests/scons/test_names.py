"""Names of files, directories, kernels and livepatches that SCons, make or a shell would run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scons.checkout import ROOT, Checkout
from tests.scons.livepatches import add_patch

MEMINFO = ROOT / "kernel-fixtures/livepatches/meminfo"
#: They make a file `ran` where they are expanded.
PYTHON = "${__import__('os').system('touch ran')}"
SHELL = "`touch ran`;$(touch ran)&"
MAKE = "$(shell touch ran)"
#: Names that are good, but for those who take them for more than a name.
NAMES = (
    PYTHON,
    SHELL,
    MAKE,
    "$HOME",
    "${",
    "$$",
    "$TARGET$SOURCE",
    "#x y",
    "-o",
    "a\"b'\\",
    "ö%s{0}",
)


@pytest.fixture
def hostile(shared: Checkout) -> Iterator[Checkout]:
    """A checkout whose directory `hostile` is for livepatches; nothing may run `ran`."""
    shared.environment["HOME"] = "/nowhere"
    build = shared.directory / "build/fixtures"
    before = set(build.iterdir())
    yield shared
    ran = list(shared.directory.rglob("ran"))
    del shared.environment["HOME"]
    shutil.rmtree(shared.directory / "hostile")
    for path in (*ran, *(set(build.iterdir()) - before)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ran == []


def add_source(directory: Path, name: str = "meminfo.c", before: str = "") -> Path:
    """Make a livepatch of meminfo whose C file is called otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(MEMINFO / "livepatch.toml", directory)
    source = directory / name
    source.write_text(before + (MEMINFO / "meminfo.c").read_text())
    return source


@pytest.mark.hardening
def test_names_are_taken_as_they_are(hostile: Checkout) -> None:
    """Of C files, headers, patches, of the directories that hold them, of a cache and DESTDIR."""
    top = hostile.directory / "hostile" / f"#{PYTHON}"
    include = "".join(f'#include "{name}.h"\n' for name in NAMES if name[0] not in "#a")
    add_source(top / "one", before=f'#define HEADER "macro{PYTHON}.h"\n#include HEADER\n{include}')
    for name in (*NAMES, f"macro{PYTHON}"):
        (top / "one" / f"{name}.h").write_text("")
    for number, name in enumerate((*NAMES, "a" * 198)):
        (top / "one" / f"{name}.c").write_text(
            f"extern char called_{number}[];\nchar called_{number}[] = KBUILD_BASENAME;\n"
        )
    add_patch(top / "fix")
    (top / "fix/fix.patch").rename(top / "fix" / f"{PYTHON} {SHELL}#.patch")
    where = f"hostile/#{PYTHON}"
    words = (f"livepatches={where}", f"cache={where}{MAKE}", f"DESTDIR={where}{SHELL}", "install")
    text = hostile.scons(*words)
    for name in NAMES:
        assert f"  CC      build/fixtures/livepatch-one/{name}.o\n" in text
    assert "2 in all: 2 would load." in text
    assert (hostile.directory / f"{where}{MAKE}/config").is_file()
    assert list((hostile.directory / f"{where}{SHELL}").rglob("livepatch-one.ko"))
    assert "  CC  " in hostile.scons(*words[:1])  # the macro's header is known now
    assert hostile.scons(*words[:1]).startswith("scons: `livepatch' is up to date.\n")
    (top / "one" / f"{PYTHON}.h").write_text("#define CHANGED\n")
    assert "  CC  " in hostile.scons("-n", *words[:1])


def test_names_that_are_refused(hostile: Checkout) -> None:
    top = hostile.directory / "hostile"
    hidden = {b"a\x1b[31m\nb": r"a\x1b[31m\nb", b"a\xffb": r"a\xffb", b"a\x9bb": r"a\x9bb",
              "a\u202eb".encode(): r"a\u202eb"}  # fmt: skip
    add_source(top / "one")
    add_patch(top / "two")
    for name in hidden:
        text = name.decode(errors="surrogateescape")
        (top / "one" / f"{text}.c").write_text("")
        (top / "two" / f"{text}.patch").write_text("")
    add_source(top / "four", "a" * 199 + ".c")
    errors = {
        f"four/{'a' * 40}...: has a name of 201 bytes\n"
        "  What is made of it has a longer one: 200 bytes are the most.\n"
    }
    for shown in hidden.values():
        for path in (f"one/{shown}.c", f"two/{shown}.patch"):
            errors.add(
                f"{path}: has a name that cannot be shown as it is\n"
                "  Names are UTF-8 without control characters.\n"
            )
    text = hostile.scons("livepatches=hostile", status=2)
    assert set(text.split("scons: error: hostile/")[1:]) == {e + "  Rename it.\n" for e in errors}


def test_what_is_no_file_is_refused(hostile: Checkout) -> None:
    """Who opens a pipe waits for ever: the compiler, SCons, or we."""
    top = hostile.directory / "hostile"
    (add_source(top / "one").parent / "include").mkdir()
    os.mkfifo(top / "one/include/x.h")
    add_patch(top / "two")
    (top / "two/zero.patch").symlink_to("/dev/zero")
    add_patch(top / "three")
    os.mkfifo(top / "three/series")
    places = ("one/include/x.h", "three/series", "two/zero.patch")
    assert hostile.scons("livepatches=hostile", status=2) == "".join(
        f"scons: error: hostile/{place}: is not a file\n  Remove it.\n" for place in places
    )


def test_two_names_of_one_directory(hostile: Checkout) -> None:
    """A link is a livepatch of its own name."""
    top = hostile.directory / "hostile"
    add_source(top / "one")
    (top / "two").symlink_to("one")
    (top / "loop").symlink_to("loop")
    assert "2 in all: 2 would load.\n" in hostile.scons("livepatches=hostile")


@pytest.mark.hardening
def test_livepatches_and_kernels_with_such_names(hostile: Checkout) -> None:
    names = (PYTHON, MAKE, "$HOME", "a\x1bb", "#x")
    for name in names:
        add_source(hostile.directory / "hostile" / name)
    add_source(hostile.directory / "hostile/one")
    for words in ((), (f"livepatch={','.join(names)},..,-,one", f"kernel=fixtures,{PYTHON},#")):
        hostile.run("livepatches=hostile", *words, "-k", "-n")
        text = hostile.scons("livepatches=hostile", *words, "-k", status=2)
        assert "\x1b" not in text
        assert re.search(r"^fixtures +a\\x1bb +failed", text, re.M)
        assert re.search(r"^fixtures +one +would load", text, re.M)
        text = hostile.scons("livepatches=hostile", *words, status=2)
        assert "scons: error: livepatch name '$HOME' cannot be a module's\n" in text


@pytest.mark.parametrize(
    "word",
    [
        f"livepatches={PYTHON}", f"V={PYTHON}", f"KCFLAGS={MAKE}", "KCFLAGS=`touch ran`",
        "CC=gcc;touch ran", f"build/{PYTHON}", "build/a\x1b", f"kernel={'a' * 300}",
        f"vmlinux={'a' * 300}", f"DESTDIR={'a' * 300}", f"SOURCE_DATE_EPOCH={'9' * 5000}",
    ],
)  # fmt: skip
def test_words_that_must_not_run(hostile: Checkout, word: str) -> None:
    (hostile.directory / "hostile").mkdir()
    done = hostile.run("livepatch=meminfo", word)
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.startswith("scons: error: ") or word == f"build/{PYTHON}"
