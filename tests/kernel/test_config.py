from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.config import Config
from tests.kernel.machines import write


def test_options_have_their_values(tmp_path: Path) -> None:
    text = (
        'CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D="two \\"words\\""\n'
        'CONFIG_E=0x10\nCONFIG_F=n\nCONFIG_G=""\n'
    )
    config = Config.read(write(tmp_path / ".config", text))
    assert [name for name in "ABCDEFGH" if config.enabled(name)] == ["A", "B"]
    assert [config.value(name) for name in "ADEGH"] == ["y", 'two "words"', "0x10", "", ""]


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / ".config", "hello\n")
    with pytest.raises(KlpError) as caught:
        Config.read(path)
    assert str(caught.value) == f"{path}: is not a kernel's configuration"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("X86_64", "x86_64"),
        ("ARM64", "aarch64"),
        ("PPC64 CPU_LITTLE_ENDIAN", "powerpc64le"),
        ("S390", "s390x"),
        ("LOONGARCH 64BIT", "loongarch64"),
        ("RISCV 64BIT", "riscv64"),
    ],
)
def test_the_architecture_is_the_configurations(tmp_path: Path, options: str, name: str) -> None:
    text = "".join(f"CONFIG_{option}=y\n" for option in options.split())
    assert Config.read(write(tmp_path / ".config", text)).architecture().name == name


def test_an_architecture_without_livepatch_is_refused(tmp_path: Path) -> None:
    config = Config.read(write(tmp_path / ".config", "CONFIG_PPC64=y\nCONFIG_CPU_BIG_ENDIAN=y\n"))
    with pytest.raises(KlpError) as caught:
        config.architecture()
    assert str(caught.value) == (
        f"{tmp_path}/.config: is for an architecture that has no livepatch\n"
        "  Known: x86_64, aarch64, powerpc64le, s390x, loongarch64, riscv64."
    )
