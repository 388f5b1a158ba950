"""The variables that packagers know: whence they come, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Toolchain
from klpbuild.package.compression import Compression
from klpbuild.request.variables import NAMES, VARIABLES, Variables, read_variables


def refused(**values: str) -> str:
    with pytest.raises(KlpError) as caught:
        read_variables(values, {})
    return str(caught.value)


def test_nothing_is_said() -> None:
    assert read_variables({}, {}) == Variables()
    assert read_variables({}, dict.fromkeys(NAMES, "")) == Variables()


def test_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "Makefile.build").touch()
    values = {
        "KVER": "6.1.0-test", "KDIR": "/usr/src/headers", "KSRC": str(tmp_path),
        "VMLINUX": "/boot/vmlinux", "SYSTEM_MAP": "/boot/System.map", "ARCH": "x86_64",
        "CROSS_COMPILE": "x86_64-linux-gnu-", "CC": "gcc-12", "KCFLAGS": "-O2 -Wextra",
        "PREFIX": "/usr/", "DESTDIR": str(tmp_path / "stage"), "SIGN_KEY": "/keys/key",
        "SIGN_CERT": "/keys/cert", "SIGN_HASH": "sha512", "STRIP": "no", "COMPRESS": "zstd",
        "REPLACE": "0", "SOURCE_DATE_EPOCH": "1700000000",
    }  # fmt: skip
    assert set(values) == set(NAMES)
    expected = Variables(
        kernel="/usr/src/headers",
        release="6.1.0-test",
        source=tmp_path,
        vmlinux="/boot/vmlinux",
        system_map="/boot/System.map",
        toolchain=Toolchain("x86_64", "x86_64-linux-gnu-", "gcc-12", "-O2 -Wextra"),
        prefix="/usr",
        destdir=tmp_path / "stage",
        sign_key="/keys/key",
        sign_cert=Path("/keys/cert"),
        sign_hash="sha512",
        strip=False,
        compress=Compression.ZSTD,
        replace=False,
        source_date_epoch=1_700_000_000,
    )
    assert read_variables(values, {}) == expected
    assert read_variables({}, values) == expected


def test_the_command_line_wins() -> None:
    environment = {"STRIP": "0", "COMPRESS": "xz", "CC": "clang"}
    found = read_variables({"STRIP": "1", "CC": ""}, environment)
    assert found.strip
    assert found.compress is Compression.XZ
    assert found.toolchain.cc == ""


def test_which_kernel() -> None:
    def kernel(command_line: dict[str, str], environment: dict[str, str]) -> tuple[str | None, str]:
        found = read_variables(command_line, environment)
        return found.kernel, found.release

    assert kernel({"KVER": "6.1"}, {}) == ("6.1", "")
    assert kernel({}, {"KVER": "6.1"}) == ("6.1", "")
    assert kernel({"KDIR": "/a"}, {"KVER": "6.1"}) == ("/a", "")
    assert kernel({"KVER": "6.1"}, {"KDIR": "/a"}) == ("6.1", "")
    assert kernel({"kernel": "x"}, {"KDIR": "/a", "KVER": "6.1"}) == (None, "")
    assert kernel({"KDIR": "a"}, {}) == (str(Path("a").absolute()), "")


def test_two_spellings() -> None:
    assert read_variables({"vmlinux": "/a"}, {"VMLINUX": "/b"}).vmlinux == "/a"
    assert read_variables({"VMLINUX": "/a"}, {}).vmlinux == "/a"
    for option, name in (
        ("kernel", "KVER"),
        ("kernel", "KDIR"),
        ("vmlinux", "VMLINUX"),
        ("system_map", "SYSTEM_MAP"),
    ):
        assert refused(**{option: "a", name: "a"}) == (
            f"{option}= and {name}= are both given\n"
            "  They are the same thing in two spellings.\n"
            "  Give one of them."
        )


def test_the_certificate_may_be_with_the_key() -> None:
    found = read_variables({"SIGN_KEY": "~/key.pem"}, {})
    assert found.sign_key == str(Path.home() / "key.pem")
    assert found.sign_cert == Path.home() / "key.pem"


def test_a_token() -> None:
    uri = "pkcs11:token=keys;object=livepatch"
    assert read_variables({"SIGN_KEY": uri, "SIGN_CERT": "/a"}, {}).sign_key == uri
    assert (
        refused(SIGN_KEY=uri)
        == "SIGN_KEY: a key of a token needs its certificate\n  SIGN_CERT=FILE"
    )
    text = refused(SIGN_KEY=f"{uri}?pin-value=1234", SIGN_CERT="/a")
    assert text == (
        "SIGN_KEY: holds a PIN, which every user of the machine can read\n"
        "  Take pin-value out, and set KBUILD_SIGN_PIN in the environment."
    )


def test_all_that_is_wrong_is_told_together(tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.touch()
    text = refused(
        PREFIX="usr", DESTDIR=str(a_file), SIGN_CERT="/a", SIGN_HASH="md4", STRIP="maybe",
        COMPRESS="lz4", REPLACE="2", SOURCE_DATE_EPOCH="yesterday", KSRC=str(tmp_path),
    )  # fmt: skip
    assert text == (
        "SIGN_CERT=/a: no key is given, so nothing would be signed\n"
        "  Give SIGN_KEY, too, or leave SIGN_CERT out.\n"
        "SIGN_HASH=md4: is not a digest that a kernel knows\n"
        "  Known: sha1, sha224, sha256, sha384, sha512, sha3-256, sha3-384, sha3-512.\n"
        "PREFIX=usr: is not absolute\n"
        "  Say PREFIX=/usr, for example.\n"
        f"DESTDIR={a_file}: is not a directory\n"
        f"KSRC={tmp_path}: is not a kernel's source tree\n"
        "  It has no scripts/Makefile.build.\n"
        "STRIP=maybe: is neither 1 nor 0\n"
        "REPLACE=2: is neither 1 nor 0\n"
        "COMPRESS=lz4: is not a compression\n"
        "  Known: none, xz, zstd, gzip.\n"
        "SOURCE_DATE_EPOCH=yesterday: is not a number of seconds since 1970\n"
        "  `git log -1 --format=%ct` prints one."
    )


def test_times_that_archives_hold() -> None:
    assert read_variables({"SOURCE_DATE_EPOCH": "8589934591"}, {}).source_date_epoch == 8589934591
    for text in ("8589934592", "9" * 5000, "-1", "1.5", "\N{ARABIC-INDIC DIGIT ONE}"):
        assert "is not a number of seconds since 1970" in refused(SOURCE_DATE_EPOCH=text)
    assert "\n  Archives hold times up to 8589934591.\n" in refused(SOURCE_DATE_EPOCH="8589934592")


def test_each_variable_is_explained() -> None:
    for variable in VARIABLES:
        assert variable.help and variable.default
        assert variable.example.startswith(f"{variable.name}=")
