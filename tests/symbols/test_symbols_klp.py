"""symbols.klp and its index: written, read, found by name."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.files.records import SETTLED_NS
from klpbuild.names import index_path
from klpbuild.symbols import fragments as fragment_cache
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.symbols.lines import Lines, hash_of
from klpbuild.symbols.table import ROW, Flag, ObjectSymbols
from klpbuild.symbols.write import SymbolSources, Written, write_objects, write_symbols
from tests.symbols.inputs import V6_1, compile_object, link_module, link_vmlinux

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="*\n\r\t \0"), min_size=1)
OBJECTS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.lists(NAMES | st.sampled_from(["show", "helper", "counter.0"])),
    max_size=5,
)


def described(object: str, names: list[str]) -> ObjectSymbols:
    """Symbols with these names; addresses count up."""
    lines = Lines.of("".join(f"{name}\n" for name in names).encode())
    rows = np.zeros(len(names), ROW)
    rows["address"] = np.arange(len(names)) * 16
    rows["hash"], rows["length"], rows["kind"] = lines.hashes(), lines.lengths, b"t"
    rows["flags"] = Flag.LIVE
    return ObjectSymbols(object, rows, lines.text)


def counted(objects: dict[str, list[str]], name: str) -> list[tuple[str, int, int]]:
    """Object, position and count of each symbol of a name, by counting lines."""
    return [
        (owner, position, names.count(name))
        for owner, names in objects.items()
        for position in range(1, names.count(name) + 1)
    ]


def found(database: SymbolDatabase, name: str) -> list[tuple[str, int, int]]:
    return [(c.object, c.position, c.count) for c in database.candidates(name)]


@given(OBJECTS)
@settings(deadline=None)
def test_every_name_is_found_with_and_without_the_index(
    tmp_path_factory: pytest.TempPathFactory, objects: dict[str, list[str]]
) -> None:
    path = tmp_path_factory.mktemp("klp") / "symbols.klp"
    write_objects(path, [described(o, names) for o, names in objects.items()])
    lines = path.read_text().split("\n")
    assert lines[0] == "klp-convert-symbol-data.0.1"
    assert lines[1:-1] == [line for o, names in objects.items() for line in (f"*{o}", *names)]

    with_index = SymbolDatabase.read(path)
    index_path(path).unlink()
    from_text = SymbolDatabase.read(path)
    again = SymbolDatabase.read(path)
    for database in (with_index, from_text, again):
        assert database.objects == tuple(objects)
        for name in {"show", "absent", *(n for names in objects.values() for n in names)}:
            assert found(database, name) == counted(objects, name)
        for owner, names in objects.items():
            assert database.symbols(owner).name_list == names
    for owner, names in objects.items():
        for name in names:
            here = with_index.in_object(owner, name)
            assert [c.address for c in here] == [16 * n for n, o in enumerate(names) if o == name]
            assert {c.kind for c in here} == {"t"}
            assert {c.address for c in from_text.in_object(owner, name)} == {None}


def test_many_symbols(tmp_path: Path) -> None:
    """More than fit into one bucket of the index, hashes that are equal."""
    names = [f"symbol_{n}" for n in range(5000)]
    collision = ["lock_onelock_two", "lock_twolock_one"]  # the same words, so the same hash
    assert hash_of(collision[0].encode()) == hash_of(collision[1].encode())
    path = tmp_path / "symbols.klp"
    write_objects(
        path, [described("vmlinux", names + collision), described("ext4", collision[::-1])]
    )
    database = SymbolDatabase.read(path)
    for name in names:
        assert found(database, name) == [("vmlinux", 1, 1)]
    for name in collision:
        assert found(database, name) == [("vmlinux", 1, 1), ("ext4", 1, 1)]


def test_sympos() -> None:
    assert Candidate("ext4", "show", 1, 1).sympos == 0
    assert [Candidate("ext4", "show", n, 2).sympos for n in (1, 2)] == [1, 2]


def klp(directory: Path, text: str | bytes) -> Path:
    path = directory / "symbols.klp"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "klp-convert-symbol-data.0.1\n*vmlinux\nshow\nshow\n*snd_pcm\nshow\n",
        "klp-convert-symbol-data.0.1-devel\n*vmlinux\nshow\nshow\n*snd_pcm\nshow",
        "klp-convert-symbol-data.0.1\n*vmlinux\nshow T\nshow t\n*snd-pcm\nshow\tt\n",
        "klp-convert-symbol-data.0.1\r\n*vmlinux\r\nshow\r\nshow\r\n*snd_pcm\r\nshow\r\n",
        "klp-convert-symbol-data.0.1\n\n*vmlinux\nshow\n\nshow\n*snd_pcm\nshow\n\n",
    ],
)
def test_files_that_others_wrote(tmp_path: Path, text: str) -> None:
    database = SymbolDatabase.read(klp(tmp_path, text))
    assert database.objects == ("vmlinux", "snd_pcm")
    assert database.candidates("show") == (
        Candidate("vmlinux", "show", 1, 2),
        Candidate("vmlinux", "show", 2, 2),
        Candidate("snd_pcm", "show", 1, 1),
    )
    assert database.in_object("snd_pcm", "show") == (Candidate("snd_pcm", "show", 1, 1),)
    assert database.in_object("ext4", "show") == database.candidates("") == ()


@pytest.mark.parametrize("text", ["klp-convert-symbol-data.0.1", "klp-convert-symbol-data.0.1\n"])
def test_a_file_without_objects(tmp_path: Path, text: str) -> None:
    database = SymbolDatabase.read(klp(tmp_path, text))
    assert database.objects == ()
    assert database.candidates("show") == ()


MAGIC = "  The first line of a symbols.klp is klp-convert-symbol-data.0.1."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", ": is empty\n" + MAGIC + "\n  Make it again."),
        (b"\n", ":1: is not a symbols.klp\n" + MAGIC),
        (b"klp-convert-symbol-data.0.2\n*vmlinux\n", ":1: is not a symbols.klp\n" + MAGIC),
        (b"klp-convert-symbol-data.0.1\n*vmlinux\nf\n\xff\n", ":4: is not UTF-8"),
        (
            b"klp-convert-symbol-data.0.1\nshow\n*vmlinux\n",
            ":2: a symbol stands before the first object\n"
            "  A line '*vmlinux' or '*<module>' says whose symbols follow.",
        ),
        (b"klp-convert-symbol-data.0.1\n*vmlinux\n*\nf\n", ":3: an object has no name"),
        (
            b"klp-convert-symbol-data.0.1\n*snd-pcm\nf\n*vmlinux\n*snd_pcm\ng\n",
            ":5: object snd_pcm is listed twice\n"
            "  It is listed in line 2 too, so positions cannot be counted.",
        ),
        (b"klp-convert-symbol-data.0.1\n*a\nf\n" + b"g" * 70000, ":4: a name is too long"),
        (b"klp-convert-symbol-data.0.1\n*a\nf\0g\n", ":3: is broken: a name holds a zero byte"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = klp(tmp_path, text)
    with pytest.raises(KlpError) as refusal:
        SymbolDatabase.read(path)
    assert str(refusal.value) == f"{path}{message}"
    assert not index_path(path).exists()


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    path = klp(tmp_path, "klp-convert-symbol-data.0.1\nf\n*\n*a\n*a\n")
    with pytest.raises(KlpError) as refusal:
        SymbolDatabase.read(path)
    places = [p.where.removeprefix(str(path)) for p in refusal.value.problems]
    assert places == [":2", ":3", ":5"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KlpError, match=r"symbols\.klp: cannot be read: No such file"):
        SymbolDatabase.read(tmp_path / "symbols.klp")


# The index


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    path = tmp_path / "symbols.klp"
    write_objects(path, [described("vmlinux", ["show", "f", "show"])])
    return path


def test_another_text_gets_another_index(indexed: Path) -> None:
    indexed.write_text("klp-convert-symbol-data.0.1\n*vmlinux\nf\nshow\nshow\nshow\n")
    assert found(SymbolDatabase.read(indexed), "show") == [("vmlinux", n, 3) for n in (1, 2, 3)]
    assert found(SymbolDatabase.read(indexed), "f") == [("vmlinux", 1, 1)]


def test_a_damaged_index_is_made_again(indexed: Path) -> None:
    whole = index_path(indexed).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        index_path(indexed).write_bytes(damaged)
        assert found(SymbolDatabase.read(indexed), "show") == [("vmlinux", 1, 2), ("vmlinux", 2, 2)]
        index_path(indexed).write_bytes(whole[:place])
        assert found(SymbolDatabase.read(indexed), "show") == [("vmlinux", 1, 2), ("vmlinux", 2, 2)]


VERSIONS = {"one": ["show", "f", "show"], "two": ["f", "show", "g", "show", "show"]}


def write_in_turns(path: Path, version: str) -> None:
    for _ in range(60):
        write_objects(path, [described("vmlinux", VERSIONS[version])])


def read_in_turns(path: Path) -> None:
    """Whatever is read is one version or the other, and never without its addresses."""
    known = {
        tuple(16 * n for n, name in enumerate(names) if name == "show")
        for names in VERSIONS.values()
    }
    for _ in range(120):
        found = SymbolDatabase.read(path).candidates("show")
        assert tuple(c.address for c in found) in known


def test_two_builds_write_the_index_while_others_read(indexed: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        *(context.Process(target=write_in_turns, args=(indexed, name)) for name in VERSIONS),
        *(context.Process(target=read_in_turns, args=(indexed,)) for _ in range(2)),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    read_in_turns(indexed)
    assert sorted(p.name for p in indexed.parent.iterdir()) == ["symbols.klp", "symbols.klp.index"]


def make_index(path: Path) -> None:
    assert found(SymbolDatabase.read(path), "show") == [("vmlinux", 1, 1)]


def test_two_processes_make_a_missing_index(tmp_path: Path) -> None:
    path = klp(tmp_path, "klp-convert-symbol-data.0.1\n*vmlinux\nshow\n")
    context = multiprocessing.get_context("fork")
    for broken in (None, b"", b"not an index"):
        if broken is not None:
            index_path(path).write_bytes(broken)
        processes = [context.Process(target=make_index, args=(path,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert index_path(path).stat().st_size > 100


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    path = klp(tmp_path, "klp-convert-symbol-data.0.1\n*vmlinux\nshow\n")
    index_path(path).mkdir()
    assert found(SymbolDatabase.read(path), "show") == [("vmlinux", 1, 1)]


# From a kernel's files

VMLINUX = """
static __attribute__((noinline)) int show(int value) { return value + 1; }
int vmlinux_show(int value) { return show(value); }
"""
DRIVER = """
static __attribute__((noinline)) int show(int value) { return value + %d; }
int %s_show(int value) { return show(value); }
"""


class Tree:
    """A small kernel tree."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.output = directory / "build" / "symbols.klp"
        self.vmlinux = link_vmlinux(directory, compile_object(directory, "show.c", VMLINUX))
        self.modules = [self.module(name, n) for n, name in enumerate(["snd-pcm", "ext4", "dm"])]

    def module(self, name: str, number: int) -> Path:
        variable = name.replace("-", "_")
        source = DRIVER % (number, variable)
        path = compile_object(self.directory, f"{variable}.c", source)
        return link_module(self.directory, f"{name}.ko", path)

    def write(self, **changes: object) -> Written:
        sources = {"vmlinux": self.vmlinux, "modules": tuple(self.modules), **changes}
        return write_symbols(self.output, SymbolSources(V6_1, **sources), self.cache)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def age(*paths: Path) -> None:
    """As if the files had not changed for an hour."""
    for path in paths:
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 3600 * 10**9))


def test_vmlinux_first_then_modules_by_name(tree: Tree) -> None:
    written = tree.write()
    assert (written.objects, written.scanned) == (4, 4)
    lines = tree.output.read_text().splitlines()
    assert [line for line in lines if line[0] == "*"] == ["*vmlinux", "*dm", "*ext4", "*snd_pcm"]
    assert written.symbols == len(lines) - 5
    database = SymbolDatabase.read(tree.output)
    (vmlinux, *modules) = database.candidates("show")
    assert (vmlinux.object, vmlinux.section, vmlinux.file) == ("vmlinux", ".text", "show.c")
    assert vmlinux.address is not None and vmlinux.address >> 63
    assert [(c.object, c.file, c.kind, c.sympos) for c in modules] == [
        (name, f"{name}.c", "t", 0) for name in ("dm", "ext4", "snd_pcm")
    ]
    assert database.candidates("ext4_show")[0].kind == "T"


def test_progress_is_told(tree: Tree) -> None:
    told = []
    sources = SymbolSources(V6_1, tuple(tree.modules), tree.vmlinux)
    write_symbols(tree.output, sources, tree.cache, lambda done, total: told.append((done, total)))
    assert told == [(3, 3)]


def test_the_order_of_the_modules_does_not_matter(tree: Tree) -> None:
    tree.write()
    text, index = tree.output.read_bytes(), index_path(tree.output).read_bytes()
    tree.write(modules=tuple(reversed(tree.modules)))
    assert (tree.output.read_bytes(), index_path(tree.output).read_bytes()) == (text, index)


def test_a_changed_module_costs_one_scan(tree: Tree) -> None:
    assert tree.write().scanned == 4
    assert tree.write().scanned == 0
    tree.module("ext4", 77)
    assert tree.write().scanned == 0  # other code, the same symbols
    compile_object(tree.directory, "ext4.c", DRIVER % (1, "ext4_new"))
    link_module(tree.directory, "ext4.ko", tree.directory / "ext4.o")
    assert tree.write().scanned == 1
    assert SymbolDatabase.read(tree.output).candidates("ext4_new_show")


def test_what_is_unchanged_is_not_put_together(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    later = fragment_cache.time.time_ns() + 10 * SETTLED_NS
    monkeypatch.setattr(fragment_cache.time, "time_ns", lambda: later)
    symvers = tree.directory / "Module.symvers"
    symvers.write_text("0x1\text4_show\text4\tEXPORT_SYMBOL\t\n")
    puts: list[Path] = []

    def put(output: Path, *words: object) -> int:
        puts.append(output)
        return write_objects(output, *words)

    monkeypatch.setattr("klpbuild.symbols.write.write_objects", put)
    first = tree.write(module_symvers=symvers)
    text = tree.output.read_bytes()
    assert tree.write(module_symvers=symvers) == replace(first, scanned=0)
    assert len(puts) == 1

    symvers.write_text("")
    tree.write(module_symvers=symvers)
    assert len(puts) == 2
    for path in (tree.output, index_path(tree.output)):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        tree.write(module_symvers=symvers)
        assert tree.output.read_bytes() == text
    index_path(tree.output).unlink()
    tree.write(module_symvers=symvers)
    assert len(puts) == 5
    assert tree.write(modules=tuple(tree.modules[:2]), module_symvers=symvers).objects == 3
    assert len(puts) == 6


def test_a_touched_module_changes_nothing(tree: Tree) -> None:
    tree.write()
    before = tree.output.stat()
    tree.modules[0].touch()
    assert tree.write().scanned == 0
    assert tree.output.stat().st_mtime_ns == before.st_mtime_ns


def test_content_decides_not_times(tree: Tree) -> None:
    """A module that is replaced by another one of its size and age."""
    age(*tree.modules, tree.vmlinux)
    tree.write()
    path = tree.modules[1]
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"ext4_show", b"ext5_show"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert tree.write().scanned == 1
    assert SymbolDatabase.read(tree.output).candidates("ext5_show")


def test_another_cache_gives_the_same_bytes(tree: Tree) -> None:
    tree.write()
    text, index = tree.output.read_bytes(), index_path(tree.output).read_bytes()
    tree.cache = tree.directory / "another"
    tree.write()
    assert (tree.output.read_bytes(), index_path(tree.output).read_bytes()) == (text, index)


def test_a_damaged_cache_is_made_again(tree: Tree) -> None:
    tree.write()
    text = tree.output.read_bytes()
    (cache,) = tree.cache.iterdir()
    data = bytearray(cache.read_bytes())
    cache.write_bytes(b"not a database at all" * 100)
    assert tree.write().scanned == 4
    for place in range(0, len(data), 997):
        data[place] ^= 0xFF
    cache.write_bytes(data)
    tree.write()
    assert tree.output.read_bytes() == text


def test_each_bit_of_a_fragment_counts(tree: Tree) -> None:
    """One that told a livepatch from other modules took a module out of symbols.klp."""
    tree.write()
    ((key, data),) = fragments(tree)[:1]
    assert len(ObjectSymbols.from_bytes("x", key, data)) > 0
    header = range(64)
    for place in (*header, *range(64, len(data), 97), *range(len(data) - 4, len(data))):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(ValueError, match="damaged"):
                ObjectSymbols.from_bytes("x", key, bytes(changed))


def fragments(tree: Tree) -> list[tuple[str, bytes]]:
    (cache,) = tree.cache.iterdir()
    with sqlite3.connect(cache) as database:
        return list(database.execute("select key, data from fragments order by key"))


def test_a_fragment_of_another_object(tree: Tree) -> None:
    """The database keeps no checksums, so that a page of it may hold another row's bytes."""
    tree.write()
    text = tree.output.read_bytes()
    (cache,) = tree.cache.iterdir()
    (first, one), (second, other), *_ = fragments(tree)
    with sqlite3.connect(cache) as database:
        rows = [(other, first), (one, second), ("text", fragments(tree)[2][0])]
        database.executemany("update fragments set data = ? where key = ?", rows)
    assert tree.write().scanned == 3
    assert tree.output.read_bytes() == text


def write(tree: Tree) -> None:
    tree.write()


def test_builds_at_once(tree: Tree) -> None:
    context = multiprocessing.get_context("fork")
    builds = [context.Process(target=write, args=(tree,)) for _ in range(6)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0] * 6
    assert len(SymbolDatabase.read(tree.output).candidates("show")) == 4
    assert tree.write().scanned == 0


def test_system_map_and_kallsyms_in_place_of_vmlinux(tree: Tree) -> None:
    tree.write()
    text = tree.output.read_bytes()
    symbols = SymbolDatabase.read(tree.output).symbols("vmlinux")
    copy = tree.directory / "copy"
    fields = zip(
        symbols.rows["address"].tolist(), symbols.rows["kind"], symbols.name_list, strict=True
    )
    copy.write_text("".join(f"{a:016x} {k.decode()} {n}\n" for a, k, n in fields))
    for kind in ("system_map", "kallsyms"):
        assert tree.write(vmlinux=None, **{kind: copy}).scanned == 1
        assert tree.output.read_bytes() == text
        (candidate,) = SymbolDatabase.read(tree.output).in_object("vmlinux", "show")
        assert candidate.address is not None and candidate.file is None


def test_livepatches_are_left_out(tree: Tree) -> None:
    source = 'static const char a[] __attribute__((section(".modinfo"), used)) = "livepatch=Y";'
    path = compile_object(tree.directory, "patch.c", source + VMLINUX)
    livepatch = link_module(tree.directory, "livepatch-show.ko", path)
    for scanned in (5, 0):
        written = tree.write(modules=(*tree.modules, livepatch))
        assert (written.objects, written.scanned) == (4, scanned)
    assert "*livepatch" not in tree.output.read_text()


def test_positions_that_change_when_init_ends(tree: Tree) -> None:
    """While a module loads its .init symbols count, later they do not."""
    init, text = '.section .init.text, "ax"', ".text"
    objects = [
        compile_object(tree.directory, f"{n}.c", f"asm({json.dumps(line)});")
        for n, line in enumerate(
            [
                f"{init}; first_init: ret; twice: ret; {text}; first_live: ret",
                f"{text}; first_init: ret; {init}; first_live: ret; twice: ret",
                f"{text}; twice: ret; {init}; gone: ret",
            ]
        )
    ]
    tree.write(modules=(link_module(tree.directory, "trap.ko", *objects),))
    database = SymbolDatabase.read(tree.output)

    def seen(name: str) -> list[tuple[str, bool, bool]]:
        found = database.in_object("trap", name)
        assert [c.position for c in found] == list(range(1, len(found) + 1))
        return [(c.section, c.init, c.unstable) for c in found]

    gone = (".init.text", True, True)
    assert seen("first_init") == [gone, (".text", False, True)]
    assert seen("first_live") == [(".text", False, False), gone]
    assert seen("twice") == [gone, gone, (".text", False, True)]
    assert seen("gone") == [gone]


# What is refused


def refused(tree: Tree, **changes: object) -> str:
    with pytest.raises(KlpError) as refusal:
        tree.write(**changes)
    assert not tree.output.exists()
    return str(refusal.value)


def test_a_tree_without_symbols(tree: Tree) -> None:
    assert refused(tree, vmlinux=None) == (
        "no symbols of vmlinux are at hand\n"
        "  In a tree without symbols nobody can tell what a name stands for.\n"
        "  Give vmlinux from the kernel's build or debug package, its System.map,\n"
        "  or a copy of /proc/kallsyms that root made."
    )


def test_two_modules_of_one_name(tree: Tree) -> None:
    (tree.directory / "updates").mkdir()
    other = tree.directory / "updates" / "snd_pcm.ko"
    other.write_bytes(tree.modules[1].read_bytes())
    assert refused(tree, modules=(*tree.modules, other)) == (
        f"{tree.modules[0]}: there are two modules snd_pcm\n"
        f"  The other one is {other}.\n"
        "  The kernel loads only one of them: leave the other one out."
    )


def test_all_broken_files_are_told_together(tree: Tree) -> None:
    tree.modules[0].write_bytes(b"")
    whole = tree.modules[2].read_bytes()
    tree.modules[2].write_bytes(whole[: len(whole) // 2])
    tree.vmlinux.unlink()
    lines = refused(tree).splitlines()
    assert lines[0] == f"{tree.vmlinux}: cannot be read: No such file or directory"
    assert lines[1] == f"{tree.modules[0]}: is empty"
    assert lines[2].startswith(f"{tree.modules[2]}: is truncated")


def test_a_broken_name_does_not_hide_the_other_modules(tree: Tree) -> None:
    """Modules are read together; the one at fault is named."""
    data = tree.modules[1].read_bytes()
    tree.modules[1].write_bytes(data.replace(b"ext4_show", b"ext4\nshow"))
    assert refused(tree) == f"{tree.modules[1]}: is broken: a name holds a line end"
    data = tree.modules[2].read_bytes()
    tree.modules[2].write_bytes(data.replace(b"dm_show", b"dm\xffshow"))
    tree.modules.pop(1)
    assert refused(tree) == "dm: symbol 'dm\\udcffshow' is not UTF-8\n  symbols.klp is text."


def test_an_output_that_cannot_be_written(tree: Tree) -> None:
    tree.output.parent.write_text("a file, not a directory")
    with pytest.raises(KlpError, match="cannot be written"):
        tree.write()


def test_a_cache_that_cannot_be_made(tree: Tree) -> None:
    tree.cache.write_text("a file, not a directory")
    assert refused(tree) == f"{tree.cache}: cannot be written: File exists"
