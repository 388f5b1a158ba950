"""The proof on Debian's kernel: System.map and another ELF reader are the judges."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from klpbuild.check.explain import Explainer
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_module, open_module
from klpbuild.kernel.tree import Kernel
from tests.samples import Built, build

pytestmark = pytest.mark.kernel

#: Those whose livepatch symbols are all vmlinux'.
OF_VMLINUX = ("meminfo", "meminfo-2", "cmdline", "homonym", "homonyms")


@pytest.fixture(scope="module")
def built(debian_debug_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(debian_debug_kernel, tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def addresses(built: Built) -> dict[str, list[int]]:
    """Of each name in System.map, in its order."""
    found = defaultdict(list)
    assert built.kernel.system_map is not None
    for line in built.kernel.system_map.read_text().splitlines():
        address, _, name = line.split(" ")
        found[name].append(int(address, 16))
    return found


def wanted(path: Path, addresses: dict[str, list[int]]) -> list[int]:
    """Where System.map says that the livepatch relocations of .text lead, by their place."""
    found = []
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".symtab")
        section = elf.get_section_by_name(".klp.rela.vmlinux.text")
        for relocation in section.iter_relocations():
            _, _, name = symbols.get_symbol(relocation["r_info_sym"]).name.split(".", 4)[2:]
            symbol, _, position = name.rpartition(",")
            shift = relocation["r_addend"] + (4 if relocation["r_info_type"] in (2, 4) else 0)
            found.append(addresses[symbol][max(int(position) - 1, 0)] + shift)
    return found


@pytest.mark.parametrize("name", OF_VMLINUX)
def test_code_leads_where_system_map_says(
    built: Built, addresses: dict[str, list[int]], name: str
) -> None:
    path = built.module(name)
    side = KernelSide(built.kernel, built.directory / "symbols.klp")
    explainer = Explainer(open_module(path, side))
    functions = {
        s.name for s in explainer.subject.elf.symbol_list if s.is_function and s.is_defined
    }
    pairs = [p for function in sorted(functions) for p in explainer.explain(function).pairs]
    targets = {pair.new.target for pair in pairs if pair.new}
    places = wanted(path, addresses)
    assert places
    assert set(places) <= targets


def test_the_proof_is_done(built: Built) -> None:
    """With vmlinux and the modules at hand nothing is left unchecked but the running system."""
    for name in (*OF_VMLINUX, "button"):
        report = check_module(built.module(name), built.kernel, built.directory / "symbols.klp")
        assert report.findings == ()
        assert {u.why for u in report.unchecked} == {"only the running system can tell"}
