"""Patches of our own, built, booted, observed, disabled and unloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import GroupResult
from klpbuild.vm.scenario import Shell
from tests.corpus.objects import Object
from tests.corpus.samples import SAMPLES, Sample
from tests.corpus.verify import Shipped, verify

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

Built = dict[str, tuple[Path, tuple[str, ...]] | KlpError]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def built(debian_source_kernel: Kernel, build: Path) -> Built:
    """Each sample's module and the functions that it replaces, or why there is none."""
    found: Built = {}
    for sample in SAMPLES:
        try:
            module, extracted = build_from_patches(
                debian_source_kernel, [sample.patch], sample.name, build
            )
        except KlpError as error:
            found[sample.name] = error
            continue
        functions = [f"{p.name}/{f.old}" for p in extracted.functions for f in p.functions]
        found[sample.name] = module, tuple(sorted(functions))
    return found


@pytest.fixture(scope="module")
def booted(debian_source_kernel: Kernel, built: Built) -> dict[str, GroupResult]:
    """What became of each sample in a guest; one boot is enough when all goes well."""
    groups = []
    for sample in SAMPLES:
        what = built[sample.name]
        if isinstance(what, tuple):
            groups.append(sample.group(what[0]))
    return {result.group.name: result for result in Guest(debian_source_kernel).run(groups)}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample(sample: Sample, built: Built, booted: dict[str, GroupResult]) -> None:
    what = built[sample.name]
    assert isinstance(what, tuple), str(what)
    assert what[1] == sample.functions
    result = booted[sample.name]
    assert result.passed, result.problem
    looks = [s.output for s in result.steps if s.planned.step == Shell(sample.look)]
    before, patched, *_, after = looks
    assert sample.right(before, patched, after), looks


@pytest.fixture(scope="module")
def shipped(debian_source_kernel: Kernel) -> Shipped:
    return Shipped.of(debian_source_kernel)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_second_opinion(sample: Sample, built: Built, build: Path, shipped: Shipped) -> None:
    what = built[sample.name]
    assert isinstance(what, tuple), str(what)
    verdict = verify(what[0], build / f"livepatch-{sample.name}", shipped)
    assert verdict.problems == []
    assert verdict.functions >= len(sample.functions)


def test_the_second_opinion_sees_a_difference(
    built: Built, build: Path, shipped: Shipped, tmp_path: Path
) -> None:
    what = built["static-local"]
    assert isinstance(what, tuple), str(what)
    work = build / "livepatch-static-local"
    data = what[0].read_bytes()
    piece = Object(what[0]).pieces["proc_do_uuid.livepatch0"]
    start = Object(what[0]).sections[piece.section]["sh_offset"] + piece.start
    other = tmp_path / "other.ko"
    other.write_bytes(data[: start + 9] + bytes([data[start + 9] ^ 1]) + data[start + 10 :])
    assert verify(other, work, shipped).problems == ["proc_do_uuid: other bytes"]
    symbol = b".klp.sym.vmlinux.bootid_spinlock."
    wrong = data.replace(symbol + b"0,0", symbol + b"1,0")
    other.write_bytes(wrong)
    assert verify(other, work, shipped).problems == [
        ".klp.sym.vmlinux.bootid_spinlock.1,0: the kernel has []"
    ]
