"""What the graph answers for livepatches, before and after the conversion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.errors import KlpError
from klpbuild.graph import queries
from klpbuild.graph.build import Fate, Graph, Livepatch, PatchedFunction, build_graph
from klpbuild.graph.modules import LivepatchReference, Module, module_from_elf
from klpbuild.graph.queries import Rebuild, Unguarded, Use
from klpbuild.graph.tables import read_livepatch, read_patches

from .inputs import DECOY, SmallKernel

DEMO = "livepatch_demo"

PATCHES = (
    PatchedFunction("btrfs"),
    PatchedFunction("ext4", "ext4_attr_store"),
    PatchedFunction("ext4", "state_show", 2),
    PatchedFunction("vmlinux", "cmdline_proc_show"),
)


def with_fate(graph: Graph, fate: Fate) -> tuple[Use, ...]:
    """The references of the livepatch that have a fate."""
    return tuple(use for use in queries.uses(graph, DEMO) if use.fate is fate)


def module(name: str, undefined: str = "", **other: Any) -> Module:
    """A kernel module that wants some symbols."""
    fields = {"livepatch": False, "depends": (), "weak": frozenset(), "references": (), **other}
    return Module(name=name, undefined=tuple(sorted(undefined.split())), **fields)


MODULES = (
    module("btrfs", "_printk kmalloc"),
    module("crc16"),
    module("ext4", "jbd2_journal_start jbd2_journal_stop _printk absent", depends=("crc16", "jbd2"),
           weak=frozenset({"absent"})),
    module("jbd2", "kmalloc"),
)  # fmt: skip


def graph_of(small: SmallKernel, *livepatches: ElfFile) -> Graph:
    return build_graph(
        small.exports, MODULES, [small.read(elf) for elf in livepatches], small.database
    )


@pytest.mark.parametrize("internal", [1, 9, 40])
def test_tables_are_read_whatever_the_sizes(internal: int, small: SmallKernel) -> None:
    words = {"internal": internal, "more": DECOY}
    assert read_patches(small.link(**words)) == PATCHES
    assert read_patches(small.loadable(**words)) == PATCHES


def test_a_livepatch_before_the_conversion(small: SmallKernel) -> None:
    graph = graph_of(small, small.link(depends="jbd2"))
    assert queries.livepatches(graph) == (DEMO,)
    assert queries.touched(graph, DEMO) == ("btrfs", "ext4", "vmlinux")
    assert queries.patched_functions(graph, DEMO) == (
        "ext4:ext4_attr_store,0",
        "ext4:state_show,2",
        "vmlinux:cmdline_proc_show,0",
    )
    assert queries.uses(graph, DEMO) == (
        Use("_printk", Fate.EXPORTED, (("vmlinux", None),)),
        Use("ext4_free_blocks", Fate.UNIQUE, (("ext4", 0),)),
        Use("jbd2_journal_start", Fate.EXPORTED, (("jbd2", None),)),
        Use("klp_enable_patch", Fate.EXPORTED, (("vmlinux", None),)),
        Use("optional", Fate.WEAK, ()),
        Use("saved_command_line", Fate.UNIQUE, (("vmlinux", 0),)),
    )
    assert queries.needed(graph, DEMO) == ("ext4", "jbd2", "vmlinux")
    assert queries.needed_first(graph, DEMO) == ("jbd2", "vmlinux")
    assert with_fate(graph, Fate.UNRESOLVED) == ()


def test_the_same_livepatch_after_the_conversion(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable(depends="jbd2"))
    assert queries.uses(graph, DEMO) == (
        Use("_printk", Fate.EXPORTED, (("vmlinux", None),)),
        Use("ext4_free_blocks", Fate.LIVEPATCH, (("ext4", 0),), ("ext4",)),
        Use("jbd2_journal_start", Fate.LIVEPATCH, (("jbd2", 0),), ("ext4",)),
        Use("klp_enable_patch", Fate.EXPORTED, (("vmlinux", None),)),
        Use("optional", Fate.WEAK, ()),
        Use("saved_command_line", Fate.LIVEPATCH, (("vmlinux", 0),), ("vmlinux",)),
    )
    # modpost's depends= is gone with the references, so vmlinux alone must be there.
    assert queries.needed(graph, DEMO) == ("ext4", "jbd2", "vmlinux")
    assert queries.needed_first(graph, DEMO) == ("vmlinux",)
    assert queries.unguarded(graph, DEMO) == ()


def test_annotations_by_symbol_name_are_references(small: SmallKernel) -> None:
    declare = "extern int jbd2_secret(int) KLP_RELOC_SYMBOL(ext4, jbd2, jbd2_secret);"
    graph = graph_of(small, small.link(declare=declare, add="+ jbd2_secret(v)"))
    assert queries.uses(graph, DEMO)[3] == Use(
        "jbd2_secret", Fate.LIVEPATCH, (("jbd2", 0),), ("ext4",)
    )


def test_ambiguous_symbols_show_all_that_can_be_reached(small: SmallKernel) -> None:
    elf = small.link(declare="extern int helper(int);", add="+ helper(v)")
    graph = graph_of(small, elf)
    (use,) = with_fate(graph, Fate.AMBIGUOUS)
    assert use == Use("helper", Fate.AMBIGUOUS, (("btrfs", 0), ("vmlinux", 1), ("vmlinux", 2)))
    relocations = "struct KLP_MODULE_RELOC(vmlinux) r[] = { KLP_SYMPOS(helper, 2) };"
    annotated = small.link(declare="extern int helper(int);" + relocations, add="+ helper(v)")
    graph = graph_of(small, annotated)
    assert with_fate(graph, Fate.AMBIGUOUS) == ()
    assert Use("helper", Fate.LIVEPATCH, (("vmlinux", 2),), ("vmlinux",)) in queries.uses(
        graph, DEMO
    )


def test_symbols_that_nothing_reachable_defines(small: SmallKernel) -> None:
    declare = "extern int crc16(int); extern int nowhere(int);"
    graph = graph_of(small, small.link(declare=declare, add="+ crc16(v) + nowhere(v)"))
    assert with_fate(graph, Fate.UNRESOLVED) == (
        Use("crc16", Fate.UNRESOLVED, ()),
        Use("nowhere", Fate.UNRESOLVED, ()),
    )


def test_exported_symbols_name_their_owner(small: SmallKernel) -> None:
    graph = graph_of(small, small.link())
    assert [(use.symbol, use.owners[0][0]) for use in with_fate(graph, Fate.EXPORTED)] == [
        ("_printk", "vmlinux"),
        ("jbd2_journal_start", "jbd2"),
        ("klp_enable_patch", "vmlinux"),
    ]
    edge = graph.edges["vmlinux", "vmlinux:_printk", "exports"]
    assert edge == {"kind": "exports", "crc": "0x00000001", "namespace": ""}
    assert not graph.has_edge("ext4", "ext4:ext4_free_blocks,0", "exports")


def test_dependencies_of_the_conversion(small: SmallKernel) -> None:
    for elf in (small.link(), small.loadable(), small.link(depends="crc16")):
        graph = graph_of(small, elf)
        found = queries.dependencies(graph, DEMO)
        assert {*found} - {"crc16"} == {"btrfs", "ext4", "jbd2", "vmlinux"}
        assert small.read(elf).dependencies(small.exports) == found


def test_what_must_be_rebuilt(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable())
    assert queries.rebuilds(graph, "ext4") == (
        Rebuild(DEMO, (
            "it patches ext4_attr_store, state_show",
            "it refers to the positions of ext4_free_blocks",
        )),
    )  # fmt: skip
    assert queries.rebuilds(graph, "btrfs") == (Rebuild(DEMO, ("it patches it",)),)
    assert queries.rebuilds(graph, "jbd2") == (
        Rebuild(DEMO, ("it refers to the positions of jbd2_journal_start",)),
    )
    assert queries.rebuilds(graph, "vmlinux") == (
        Rebuild(DEMO, (
            "it patches cmdline_proc_show",
            "it refers to the positions of saved_command_line",
            "it uses the exports _printk, klp_enable_patch",
        )),
    )  # fmt: skip
    assert queries.rebuilds(graph, "crc16") == ()


def test_the_dependencies_are_what_causes_rebuilds(small: SmallKernel) -> None:
    for elf in (small.link(), small.loadable()):
        graph = graph_of(small, elf)
        causes = [name for name in queries.objects(graph) if queries.rebuilds(graph, name)]
        assert tuple(causes) == queries.dependencies(graph, DEMO)


def test_long_lists_of_reasons_are_cut() -> None:
    references = tuple(LivepatchReference("m", "m", f"f{n}", 0) for n in range(8))
    patch = Livepatch(module("lp", livepatch=True, references=references))
    graph = build_graph(no_exports(), (), [patch])
    assert queries.rebuilds(graph, "m") == (
        Rebuild("lp", ("it refers to the positions of f0, f1, f2, f3, f4 and 3 more",)),
    )


def no_exports() -> Any:
    from klpbuild.symbols.symvers import Exports

    return Exports({})


def test_kernel_modules_need_owners_of_exports(small: SmallKernel) -> None:
    graph = build_graph(small.exports, MODULES)
    assert queries.needed(graph, "ext4") == ("crc16", "jbd2", "vmlinux")
    assert graph.edges["ext4", "jbd2", "needs"] == {"kind": "needs", "gate": "", "symbols": 2}
    assert queries.users(graph, "jbd2") == ("ext4",)
    assert queries.objects(graph) == ("btrfs", "crc16", "ext4", "jbd2", "vmlinux")


def test_load_order(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable())
    assert queries.load_order(graph, ["ext4"]) == ("crc16", "jbd2", "ext4")
    assert queries.load_order(graph, [DEMO]) == (DEMO,)
    assert queries.load_order(graph, ["ext4", DEMO]) == ("crc16", "jbd2", "ext4", DEMO)
    unconverted = graph_of(small, small.link())
    assert queries.load_order(unconverted, [DEMO]) == ("jbd2", DEMO)


def test_cycles_are_found_and_named() -> None:
    needs = {"a": ("b",), "b": ("c",), "c": ("a", "d"), "d": (), "e": ("e",)}
    graph = build_graph(no_exports(), [module(n, depends=d) for n, d in needs.items()])
    assert queries.cycles(graph) == (("a", "b", "c"), ("e",))
    assert queries.load_order(graph, ["d"]) == ("d",)
    with pytest.raises(KlpError) as caught:
        queries.load_order(graph, ["b"])
    assert str(caught.value) == (
        "modules need each other\n"
        "  a -> b -> c -> a\n"
        "  Modules of one kernel do not: give the modules of one build."
    )


def test_an_owner_that_the_gate_does_not_need(small: SmallKernel) -> None:
    references = (
        LivepatchReference("btrfs", "jbd2", "jbd2_secret", 0),
        LivepatchReference("ext4", "crc16", "crc16", 0),
        LivepatchReference("ext4", "jbd2", "jbd2_secret", 0),
        LivepatchReference("vmlinux", "jbd2", "jbd2_journal_stop", 0),
        LivepatchReference("vmlinux", "vmlinux", "helper", 1),
    )
    patch = Livepatch(module("lp", livepatch=True, references=references))
    graph = build_graph(small.exports, MODULES, [patch])
    assert queries.unguarded(graph, "lp") == (
        Unguarded("jbd2_journal_stop", "jbd2", "vmlinux"),
        Unguarded("jbd2_secret", "jbd2", "btrfs"),
    )
    # One symbol with two gates is one use.
    assert Use("jbd2_secret", Fate.LIVEPATCH, (("jbd2", 0),), ("btrfs", "ext4")) in queries.uses(
        graph, "lp"
    )


def test_two_livepatches_of_one_name(small: SmallKernel) -> None:
    elf = small.link()
    with pytest.raises(KlpError) as caught:
        graph_of(small, elf, elf)
    assert str(caught.value) == (
        f"two objects are named '{DEMO}'\n  The kernel loads one module of a name."
    )


def test_an_object_that_is_not_there(small: SmallKernel) -> None:
    graph = graph_of(small)
    for ask in (queries.needed, queries.rebuilds, queries.users, queries.uses):
        with pytest.raises(KlpError) as caught:
            ask(graph, "ext3")
        assert str(caught.value) == ("object 'ext3' is not in the graph\n  Did you mean ext4?")
    with pytest.raises(KlpError) as caught:
        queries.needed(graph, "zzz")
    assert str(caught.value) == (
        "object 'zzz' is not in the graph\n  Objects are named as in lsmod."
    )
    with pytest.raises(KlpError, match="is not in the graph"):
        queries.neighbourhood(graph, ["no_such_module"])


def test_a_module_that_is_no_livepatch(small: SmallKernel) -> None:
    elf = small.link()
    copy = ElfObject.from_elf(elf)
    section = elf.section(".modinfo")
    assert section is not None
    copy.sections[section.index].data = bytes(elf.contents(section)).replace(b"=Y", b"=N")
    with pytest.raises(KlpError) as caught:
        read_livepatch(ElfFile(copy.to_bytes(), "demo.ko"), "demo.ko")
    assert str(caught.value) == (
        'demo.ko: is not a livepatch module\n  The kernel knows one by MODULE_INFO(livepatch, "Y").'
    )


def test_names_that_the_kernel_refuses(small: SmallKernel) -> None:
    converted = small.loadable()
    index = next(s.index for s in converted.symbol_list if s.name.startswith(".klp.sym."))
    copy = ElfObject.from_elf(converted)
    copy.rename_symbol(index, ".klp.sym.vmlinux.no_position")
    with pytest.raises(KlpError) as caught:
        module_from_elf(ElfFile(copy.to_bytes(), "demo.ko"), "demo.ko")
    assert str(caught.value).endswith(
        f": symbol {index} has the name '.klp.sym.vmlinux.no_position'\n"
        "  The kernel reads .klp.sym.<object>.<symbol>,<position> there."
    )
    copy = ElfObject.from_elf(converted)
    number = next(s.index for s in converted.sections if s.name.startswith(".klp.rela."))
    copy.sections[number].name = ".klp.rela..text"
    with pytest.raises(KlpError) as caught:
        module_from_elf(ElfFile(copy.to_bytes(), "demo.ko"), "demo.ko")
    assert str(caught.value) == (
        f"demo.ko: section {number} has the name '.klp.rela..text'\n"
        "  The kernel refuses livepatch relocations but in .klp.rela.<object>.*."
    )


def test_an_annotation_that_cannot_be_read(small: SmallKernel) -> None:
    elf = small.link(
        declare='extern int odd(int) __asm__("\\".klp.sym.rela.ext4\\"");', add="+odd(v)"
    )
    with pytest.raises(KlpError) as caught:
        module_from_elf(elf, "demo.ko")
    assert str(caught.value) == (
        f"{elf.name}: annotation '.klp.sym.rela.ext4' cannot be read\n"
        "  It is .klp.sym.rela.<gate>.<owner>.<symbol>,<position>.\n"
        "  Write it with KLP_RELOC_SYMBOL(gate, owner, symbol, position)."
    )


NAMES = st.sampled_from(["ext4", "jbd2", "btrfs", "crc16", "a", "b", "c"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.frozensets(NAMES, max_size=3), max_size=7), st.randoms())
def test_order_and_cycles_of_any_needs(needs: dict[str, frozenset[str]], random: Any) -> None:
    modules = [module(name, depends=tuple(sorted(d))) for name, d in needs.items()]
    graph = build_graph(no_exports(), modules)
    shuffled = list(modules)
    random.shuffle(shuffled)
    again = build_graph(no_exports(), shuffled)
    assert list(again.edges(keys=True, data=True)) == list(graph.edges(keys=True, data=True))
    names = [name for name in queries.objects(graph) if name != "vmlinux"]
    if queries.cycles(graph):
        with pytest.raises(KlpError, match="modules need each other"):
            queries.load_order(graph, names)
        for circle in queries.cycles(graph):
            for one, next_one in zip(circle, [*circle[1:], circle[0]], strict=True):
                assert next_one in needs[one]
        return
    order = queries.load_order(graph, names)
    assert sorted(order) == names
    for name, wanted in needs.items():
        assert all(order.index(one) < order.index(name) for one in wanted)


@given(
    st.frozensets(NAMES, max_size=4),
    st.frozensets(NAMES, max_size=3),
    st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=4),
)
def test_sets_give_the_dependencies_that_the_graph_gives(
    patched: frozenset[str], depends: frozenset[str], references: list[tuple[str, str, str]]
) -> None:
    converted = tuple(LivepatchReference(gate, owner, f"f_{name}", 0)
                      for gate, owner, name in references)  # fmt: skip
    made = module("lp", depends=tuple(sorted(depends)), livepatch=True, references=converted)
    livepatch = Livepatch(made, tuple(PatchedFunction(name, "f") for name in sorted(patched)))
    graph = build_graph(no_exports(), (), [livepatch])
    assert livepatch.dependencies(no_exports()) == queries.dependencies(graph, "lp")
