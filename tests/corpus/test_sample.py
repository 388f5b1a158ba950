"""Patches of our own, built, booted, observed, disabled and unloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.from_patch import build_from_patches
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.guest import Guest
from klpbuild.vm.result import GroupResult
from klpbuild.vm.scenario import Shell
from tests.corpus.samples import SAMPLES, Sample

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
