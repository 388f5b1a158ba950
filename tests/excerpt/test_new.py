"""`klpbuild new`: what it writes builds at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.excerpt.skeleton import skeleton
from klpbuild.kernel.tree import Kernel
from tests.scons.test_scons import Checkout

PATCHES = Path(__file__).parents[1] / "corpus" / "patches"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("new") / "klpbuild")


@pytest.fixture(autouse=True)
def inside(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in the checkout, and does not end scons' lines."""
    monkeypatch.chdir(checkout.directory)


def new(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """Run the command and return what it says; errors after the rest."""
    done = main(["new", *words])
    captured = capsys.readouterr()
    # On a slow machine there is a line of progress, too.
    lines = captured.err.splitlines(keepends=True)
    said = captured.out + "".join(line for line in lines if " objects read" not in line)
    assert done == status, said
    return said


@pytest.mark.slow
def test_functions_of_the_fixtures_build(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--kernel", "fixtures", "--function")
    both = ("vmlinux:meminfo_proc_show", "--function", "ext4:ext4_attr_show")
    assert new(capsys, "two", *words, *both) == (
        "fixes/two/meminfo.c: meminfo_proc_show from fs/proc/meminfo.c\n"
        "fixes/two/sysfs.c: ext4_attr_show from fs/ext4/sysfs.c\n"
        "Edit it, then: ./scons livepatches=fixes livepatch=two kernel=fixtures\n"
    )
    told = json.loads(new(capsys, "homonym", "--json", *words, "vmlinux:version_show,2"))
    assert told == {
        "directory": "fixes/homonym",
        "files": {"version.c": "version_show from fs/proc/version.c"},
        "doubts": told["doubts"],
        "problem": "",
        "build": "./scons livepatches=fixes livepatch=homonym kernel=fixtures",
    }

    two = checkout.directory / "fixes/two"
    assert '#include "fs/ext4/ext4.h"\n' in (two / "sysfs.c").read_text()
    memory = (two / "meminfo.c").read_text()
    original = (checkout.directory / "kernel-fixtures/fs/proc/meminfo.c").read_text()
    body = original[original.index("\tsi_meminfo") : original.index("\n}", original.index("si_me"))]
    assert body in memory
    homonym = tomllib.loads((checkout.directory / "fixes/homonym/livepatch.toml").read_text())
    assert homonym == {
        "description": "version_show",
        "references": [],
        "kernels": ["fixtures"],
        "object": [
            {
                "name": "vmlinux",
                "functions": [
                    {"old": "version_show", "new": "livepatch_version_show", "sympos": 2}
                ],
            }
        ],
    }
    checkout.scons("livepatches=fixes", "livepatch=all")
    for name in ("homonym", "two"):
        assert (checkout.directory / f"build/fixtures/livepatch-{name}.ko").is_file()


def test_an_ambiguous_function_asks(capsys: pytest.CaptureFixture[str]) -> None:
    said = new(capsys, "a", "--kernel", "fixtures", "--function", "vmlinux:version_show", status=1)
    assert re.sub(r"0x\w+", "ADDRESS", said) == (
        "klpbuild: error: vmlinux has 2 functions version_show\n"
        "  Only the author knows which one is meant.  Write one of these:\n"
        "  --function vmlinux:version_show,1  # ksysfs.c, address ADDRESS\n"
        "  --function vmlinux:version_show,2  # version.c, address ADDRESS\n"
    )
    assert not Path("fixes/a").exists()


def test_everything_that_is_wrong_is_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    functions = ("vmlinux:no_such", "nosuch:f", "vmlinux:sched_clock", "vmlinux:start_kernel")
    words = [word for function in functions for word in ("--function", function)]
    assert new(capsys, "b", "--kernel", "fixtures", *words, status=1) == (
        "klpbuild: error: --function: function no_such is not in vmlinux\n"
        "  GCC drops functions that it inlines, and renames clones.\n"
        "  Replace the functions that call it.\n"
        "klpbuild: error: --function: object 'nosuch' is not in this kernel\n"
        "  It may be built in: then its functions belong to vmlinux.  "
        "--modules names further modules.\n"
        "klpbuild: error: --function: function sched_clock of vmlinux has no ftrace entry in this "
        "kernel\n"
        "  Livepatch redirects a function at its entry call; this one is notrace, or not a "
        "function.\n"
        "  Replace the functions that call it.\n"
        "klpbuild: error: --function: function start_kernel of vmlinux is in .init.text\n"
        "  That memory is freed once vmlinux runs.\n"
        "  There is nothing left to replace.\n"
    )


def test_an_existing_directory_stays(capsys: pytest.CaptureFixture[str]) -> None:
    there = Path("fixes/there")
    there.mkdir(parents=True)
    function = ("--kernel", "fixtures", "--function", "vmlinux:meminfo_proc_show")
    assert new(capsys, "there", *function, status=1) == (
        "klpbuild: error: fixes/there: is there already\n  Take another name, or remove it.\n"
    )
    assert list(there.iterdir()) == []
    there.rmdir()


def test_words_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert new(
        capsys, "c", "--function", "meminfo_proc_show", "--kernel", "fixtures", status=1
    ) == (
        "klpbuild: error: function 'meminfo_proc_show' cannot be read\n"
        "  Write OBJECT:FUNCTION, such as vmlinux:meminfo_proc_show,\n"
        "  and ,POSITION behind it when the object has several of that name.\n"
    )
    assert new(capsys, "c", "--function", "vmlinux:f", status=1) == (
        "klpbuild: error: no kernel is fetched, and none is named\n"
        "  Run `klpbuild kernel fetch --source`, or name one: --kernel RELEASE.\n"
    )
    assert new(
        capsys, "c d", "--function", "vmlinux:f", "--kernel", "fixtures", status=1
    ).startswith("klpbuild: error: livepatch name 'c d' cannot be a module's\n")


def test_without_source_there_is_a_skeleton_with_a_todo(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = checkout.directory / "elsewhere"
    shutil.copytree(checkout.directory / "build/fixtures/kernel", copy, symlinks=True)
    (copy / "source").unlink()
    function = ("--function", "vmlinux:meminfo_proc_show", "--kernel", "./elsewhere")
    said = new(capsys, "skeleton", *function, status=1)
    assert said.startswith(
        "fixes/skeleton/meminfo_proc_show.c: a skeleton for meminfo_proc_show: "
        "the source of 6.1.0-fixtures is not at hand\n"
    )
    assert (
        '#error "TODO: write livepatch_meminfo_proc_show, with the arguments that '
        'meminfo_proc_show has in the source"\n'
    ) in Path("fixes/skeleton/meminfo_proc_show.c").read_text()
    shutil.rmtree("fixes/skeleton")


@pytest.mark.kernel
class TestDebian:
    """On Debian's kernel, with its source."""

    def test_a_function_of_vmlinux_and_one_of_a_module(
        self, checkout: Checkout, debian_source_kernel: Kernel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kernel = debian_source_kernel
        functions = ("vmlinux:meminfo_proc_show", "button:param_get_lid_init_state")
        for number, function in enumerate(functions):
            name = f"debian-{number}"
            new(capsys, name, "--kernel", kernel.name, "--function", function)
            said = checkout_scons(
                checkout, "livepatches=fixes", f"livepatch={name}", f"kernel={kernel.name}"
            )
            assert "nothing found" in said

    def test_from_a_patch(
        self, debian_source_kernel: Kernel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        patch = PATCHES / "static-local.patch"
        kernel = debian_source_kernel.name
        said = new(capsys, "patched", "--kernel", kernel, "--patch", str(patch))
        assert re.fullmatch(
            r"fixes/patched/static-local.patch: changes \S+\.c\n"
            rf"Edit it, then: ./scons livepatches=fixes livepatch=patched kernel={kernel} boot\n",
            said,
        )
        assert Path("fixes/patched/static-local.patch").read_bytes() == patch.read_bytes()

    def test_a_skeleton_has_the_right_head(self, debian_source_kernel: Kernel) -> None:
        text = skeleton(debian_source_kernel, "button", "param_get_lid_init_state", "new")
        assert text == (
            "// SPDX-License-Identifier: GPL-2.0-or-later\n"
            "/* Replaces param_get_lid_init_state of button in Linux "
            f"{debian_source_kernel.release}. */\n"
            "#include <linux/kernel.h>\n"
            "#include <linux/module.h>\n"
            "\n"
            "struct kernel_param;\n"
            "\n"
            "int new(char *buf, const struct kernel_param *kp)\n"
            "{\n"
            '#warning "TODO: new does nothing yet"\n'
            "\treturn 0;\n"
            "}\n"
        )


def checkout_scons(checkout: Checkout, *words: str) -> str:
    """scons with the real cache of kernels."""
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", *words],
        cwd=checkout.directory,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
