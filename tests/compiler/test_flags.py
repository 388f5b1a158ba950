"""The kernel's own compile command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.compiler.flags import compile_command, split_commands, unescape_recorded
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel


def test_flags_are_those_that_kbuild_recorded_for_an_object(fixtures_kernel: Kernel) -> None:
    command = compile_command(fixtures_kernel)
    recorded = (fixtures_kernel.build / "fs/ext4/.ext4.o.cmd").exists()
    assert recorded  # the tree is kbuild's own, not a mock
    assert command.directory == fixtures_kernel.build.resolve()
    assert {"-D__KERNEL__", "-DMODULE", "-mfentry", "-pg", "-mcmodel=kernel"} <= set(command.flags)
    assert not [flag for flag in command.flags if "KBUILD_" in flag]
    assert not [flag for flag in command.flags if flag in ("-c", "-o") or "-MMD" in flag]
    assert not [flag for flag in command.flags if flag.endswith((".c", ".o"))]
    assert command.header("linux/livepatch.h") is not None
    assert command.header("linux/no-such-header.h") is None


def test_kbuild_is_asked_once(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    kernel = dataclasses.replace(fixtures_kernel, cache=tmp_path / "cache")
    command = compile_command(kernel)
    kept = kernel.cache / "compile-command.json"
    stored = json.loads(kept.read_text())
    stored["command"]["flags"].append("-DKEPT")
    kept.write_text(json.dumps(stored))
    again = compile_command(dataclasses.replace(kernel, name="again"))
    assert again.flags == (*command.flags, "-DKEPT")
    assert {path.name for path in kernel.cache.iterdir()} == {kept.name, f".{kept.name}.lock"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1}', "not JSON"])
def test_damaged_cache_is_made_again(fixtures_kernel: Kernel, tmp_path: Path, content: str) -> None:
    (tmp_path / "compile-command.json").write_text(content)
    kernel = dataclasses.replace(fixtures_kernel, cache=tmp_path, name=str(tmp_path))
    assert compile_command(kernel) == compile_command(fixtures_kernel)


def test_another_configuration_is_asked_again(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_bytes(fixtures_kernel.config.read_bytes())
    kernel = dataclasses.replace(fixtures_kernel, cache=tmp_path, config=config)
    compile_command(kernel)
    before = json.loads((tmp_path / "compile-command.json").read_text())["key"]
    config.write_text(config.read_text() + "CONFIG_MORE=y\n")
    compile_command(kernel)
    after = json.loads((tmp_path / "compile-command.json").read_text())["key"]
    assert before["digest"] != after["digest"]


def test_another_compiler_is_a_warning(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    config = tmp_path / ".config"
    text = fixtures_kernel.config.read_text()
    config.write_text(f'{text}CONFIG_CC_VERSION_TEXT="gcc (Other 1.0) 4.9.2"\n')
    kernel = dataclasses.replace(fixtures_kernel, cache=tmp_path, config=config)
    command = compile_command(kernel)
    assert "built by gcc (Other 1.0) 4.9.2" in command.warning
    assert compile_command(fixtures_kernel).warning == ""


def test_tree_that_cannot_build_modules_is_refused(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("modules:\n\t@echo probe.c: error: no headers; false\n")
    kernel = dataclasses.replace(fixtures_kernel, build=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(KlpError) as caught:
        compile_command(kernel)
    assert "kbuild failed: make modules" in str(caught.value)
    assert "probe.c: error: no headers" in str(caught.value)
    assert not list((tmp_path / "cache").glob("[!.]*"))


def test_tree_whose_make_does_nothing_is_refused(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("modules:\n")
    kernel = dataclasses.replace(fixtures_kernel, build=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(KlpError, match=r"kbuild did not write \.probe\.o\.cmd"):
        compile_command(kernel)


def test_objtool_command_is_split_from_the_compilation() -> None:
    line = "gcc -DA='\"b;c\"' -c -o x.o x.c   ; ./tools/objtool/objtool --orc x.o"
    compilation, objtool = split_commands(line)
    assert compilation == ["gcc", '-DA="b;c"', "-c", "-o", "x.o", "x.c"]
    assert objtool == ["./tools/objtool/objtool", "--orc", "x.o"]


def test_command_with_open_quotation_is_refused() -> None:
    with pytest.raises(KlpError, match="kbuild's command cannot be read: No closing quotation"):
        split_commands("gcc -D'A")


@given(st.lists(st.sampled_from(["a", "#", "$", " ", "(pound)"])).map("".join))
def test_escapes_of_make_are_undone(text: str) -> None:
    escaped = text.replace("$", "$$").replace("#", "$(pound)")
    assert unescape_recorded(escaped) == text


@pytest.mark.kernel
def test_debian_kernel_has_objtool(debian_kernel: Kernel) -> None:
    command = compile_command(debian_kernel)
    assert "-mindirect-branch=thunk-extern" in command.flags
    if debian_kernel.version < (6, 2):
        assert command.objtool is not None
        assert command.objtool[-1] == "--module"
        assert not command.objtool_at_link
    else:  # with IBT objtool must see the whole module
        assert command.objtool is None
        assert command.objtool_at_link
