"""The runner: what it remembers, how it sorts reasons, and what it shows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import Problem
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.patchfile import apply_patches
from klpbuild.vm.scenario import module_name
from tests.corpus.build import livepatch_name
from tests.corpus.collect import collect
from tests.corpus.objects import Object
from tests.corpus.reasons import KINDS, OTHER, kind_of
from tests.corpus.results import Loading, Outcome, Reason, Result, ResultsFile
from tests.corpus.samples import PATCHES
from tests.corpus.table import table

BUILT = Result("a.patch", Outcome.BUILT, 4.5, ("ext4",), ("ext4/f",), module="6.1/livepatch-a.ko")
REFUSED = Result(
    "b.patch",
    Outcome.REFUSED,
    1.5,
    ("vmlinux",),
    ("vmlinux/g",),
    (Reason("data-changed", "data d changed", "g.c:g.o:d", "It is in use."),),
)
IDLE = replace(REFUSED, patch="c.patch", objects=(), functions=(), reasons=REFUSED.reasons)
FAILED = Result("d.patch", Outcome.FAILED, 0.5, traceback="ValueError: what")
LOADED = replace(BUILT, loading=Loading("loaded", {"ext4": "patched"}))


def test_results_are_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    results = ResultsFile(path)
    for result in (FAILED, BUILT, REFUSED, LOADED):
        results.add(result)
    assert len(path.read_text().splitlines()) == 4
    again = ResultsFile(path)
    assert list(again) == [LOADED, REFUSED, FAILED]
    again.tidy()
    assert len(path.read_text().splitlines()) == 3
    assert list(ResultsFile(path)) == [LOADED, REFUSED, FAILED]


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("fs/a.c does not compile alone: 'X' undeclared", "does-not-compile-alone"),
        ("the patch changes nothing in this kernel: only comments", "changes-no-code"),
        ("changes nothing in this kernel: no object is made from a.c", "not-in-this-configuration"),
        ("__init code changed", "init-only"),
        ("__setup_f is new in .init.setup", "init-only"),
        ("data table changed: its size was 4 bytes and is 8", "data-changed"),
        ("function f has no ftrace entry in the kernel", "no-ftrace-entry"),
        ("changed, and a kernel thread stays in it", "kernel-thread"),
        ("f uses static branch key k", "static-key"),
        ("f compiled here is not the function that vmlinux ships", "not-as-shipped"),
        ("f was not found in the shipped ext4", "symbol-not-found"),
        ("struct x has 8 bytes more", "layout-changed"),
        ("the moon is full", OTHER),
    ],
)
def test_kinds_of_reasons(what: str, kind: str) -> None:
    why = "Each struct x keeps its old layout." if "struct" in what else ""
    assert kind_of(Problem(what, why=why)) == kind
    assert kind == OTHER or kind in {known.name for known in KINDS}


def test_table() -> None:
    text = table((LOADED, REFUSED, IDLE, FAILED))
    assert "| change at least one | 2 | 100 % |" in text
    assert "| - built | 1 | 50.0 % |" in text
    assert "| - built and loaded | 1 | 50.0 % |" in text
    assert "| data-changed | 1 | " in text
    assert "| `b.patch` | data-changed | d: data d changed. It is in use. |" in text
    assert "### Failed\n\n`d.patch`\n\n```\nValueError: what\n```" in text


def test_modules_that_the_guest_cannot_have_are_counted() -> None:
    absent = replace(LOADED, loading=Loading("loaded", {"kvm_amd": "not in the guest: no"}))
    text = table((absent, replace(LOADED, patch="e.patch", loading=Loading("warnings", {}, "oh"))))
    assert "1 of them were loaded without the module" in text
    assert "`e.patch`: warnings\n\n```\noh\n```" in text


def test_each_patch_has_a_name_of_its_own() -> None:
    long = "drivers__net__ethernet__mellanox__mlx5__core__en_main.c.patch"
    names = [livepatch_name(Path(name)) for name in (long, f"x{long}", "a.patch", "ä.patch")]
    assert len(set(names)) == 4
    assert all(len(f"livepatch-{name}") < 56 for name in names)


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.corpus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.kernel
@pytest.mark.boot
def test_build_load_and_table(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    """Two patches through the runner; a second run has nothing to do."""
    results, output = tmp_path / "results.jsonl", tmp_path / "out"
    places = ["--results", str(results), "--output", str(output), "--only", "two-objects*"]
    build = ["build", str(PATCHES), "--kernel", debian_source_kernel.release, *places]
    assert "two-objects.patch: built" in run(*build)
    assert run(*build) == ""
    (built,) = ResultsFile(results)
    assert built.functions == ("8021q/vlan_seq_show", "vmlinux/show_console_dev")
    assert module_name(output / built.module).startswith("livepatch_two_objects_")
    load = ["load", "--kernel", debian_source_kernel.release, *places]
    assert "two-objects.patch: loaded" in run(*load)
    assert run(*load) == ""
    assert "| - built and loaded | 1 | 100.0 % |" in run("table", "--results", str(results))


@pytest.mark.kernel
def test_patches_are_made_of_a_newer_version(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    older = source_tree(debian_source_kernel)
    for name in ("fs/proc/version.c", "fs/proc/loadavg.c", "lib/test_hash.c"):
        text = (older / name).read_text()
        changed = text if "loadavg" in name else text.replace("\treturn 0;", "\treturn 1;")
        path = tmp_path / "newer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed)
    patches = tmp_path / "patches"
    assert collect(debian_source_kernel, tmp_path / "newer", patches) == 1
    (patch,) = patches.iterdir()
    assert patch.name == "fs__proc__version.c.patch"
    (file,) = apply_patches([patch], older).files
    assert file.path == "fs/proc/version.c"
    assert file.patched == (tmp_path / "newer/fs/proc/version.c").read_bytes()


def test_the_second_opinion_tells_static_variables_of_one_name_apart(tmp_path: Path) -> None:
    for name in "ab":
        source = f"static int once = 1; int *{name}(void) {{ return &once; }}"
        (tmp_path / f"{name}.c").write_text(source)
        subprocess.run(["gcc", "-c", f"{name}.c"], check=True, cwd=tmp_path)
    subprocess.run(["ld", "-r", "-o", "both.o", "a.o", "b.o"], check=True, cwd=tmp_path)
    both = Object(tmp_path / "both.o")
    (section,) = {s["st_shndx"] for s in both.symbols if s.name == "once"}
    found = [both.name_at(section, at) for at in (0, 4, 6)]
    assert found == [("once", 0), ("once", 0), ("once", 2)]
