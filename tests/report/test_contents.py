"""What is read back from a module, and what a broken one leads to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.package.compression import Compression
from klpbuild.report.contents import External, LivepatchRelocation, read_contents
from klpbuild.report.file import ModuleFile
from klpbuild.report.text import as_document, as_text
from klpbuild.report.uses import Uses
from tests.check.kernels import crc_of
from tests.objects import compile_c

_QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_a_module(good: dict[str, bytes]) -> None:
    contents = read_contents(good["button"], "livepatch-button.ko")
    (patched,) = contents.patched or ()
    assert patched.object == "button"
    assert [f.old for f in patched.functions or ()] == ["param_get_lid_init_state"]
    assert patched.callbacks == {"post_unpatch"}
    assert contents.relocations == (
        LivepatchRelocation("button", "button", "lid_init_state", 0, ".text", 1),
    )
    assert External("klp_enable_patch", crc_of("klp_enable_patch")) in contents.externals
    assert contents.says("license") == "GPL"
    assert contents.says("nothing") == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello",
         "x.ko: does not begin with ELF's magic number\n"
         "  elf_validity_check() of the module loader wants ELF's magic number.\n"
         "  Name a .ko file; decompress a .ko.xz, .ko.zst or .ko.gz first."),
        (b"",
         "x.ko: is empty\n"
         "  elf_validity_check() of the module loader wants ELF's magic number.\n"
         "  Name a .ko file; decompress a .ko.xz, .ko.zst or .ko.gz first."),
    ],
)  # fmt: skip
def test_no_module(data: bytes, text: str) -> None:
    with pytest.raises(KlpError) as error:
        read_contents(data, "x.ko")
    assert str(error.value) == text


def test_not_a_module(tmp_path: Path) -> None:
    data = compile_c(tmp_path, "int x;").read_bytes()
    with pytest.raises(KlpError) as error:
        read_contents(data, "x.ko")
    assert str(error.value) == (
        "x.ko: has no section .gnu.linkonce.this_module\n"
        "  modpost adds struct module to what is linked to a .ko file.\n"
        "  Link the objects with kbuild; `klpbuild build` does."
    )


def read_all(data: bytes) -> None:
    """Everything that is read of a module."""
    with suppress(KlpError):
        contents = read_contents(data, "x.ko")
        file = ModuleFile(Path("x.ko"), Compression.NONE, data, None)
        text = as_text(file, contents, None)
        assert all(line.isprintable() for line in text.splitlines())
        as_document(file, contents, None)
        Uses(contents.elf).reached()


@given(end=st.integers(0, 1 << 20))
@_QUICK
def test_truncated(good: dict[str, bytes], end: int) -> None:
    read_all(good["button"][: end % len(good["button"])])


@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8))
@_QUICK
def test_damaged(good: dict[str, bytes], changes: list[tuple[int, int]]) -> None:
    data = bytearray(good["button"])
    for place, byte in changes:
        data[place % len(data)] = byte
    read_all(bytes(data))


SOURCE = """
static int counter;
extern int outside(int);
__attribute__((noinline)) int by_name(int x) { return outside(x); }
static __attribute__((noinline)) int helper(int x) { return outside(x) + counter++; }
int caller(int x) { return helper(x) + helper(x + 1) + by_name(2); }
static int unused_by_code;
int *table[] = { &unused_by_code };
"""


@pytest.mark.parametrize("flags", [(), ("-ffunction-sections", "-fdata-sections"), ("-O0",)])
def test_who_uses_what(tmp_path: Path, flags: tuple[str, ...]) -> None:
    uses = Uses(ElfFile.read(compile_c(tmp_path, SOURCE, *flags)))
    names = {
        (use.user.name, getattr(use.used, "name", "") or getattr(use.used, "symbol", ""))
        for use in uses.reached()
    }
    assert names == {
        ("by_name", "outside"),
        ("helper", "outside"),
        ("helper", "counter"),
        ("caller", "helper"),
        ("caller", "by_name"),
    }
