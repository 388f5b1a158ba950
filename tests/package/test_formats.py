"""The kinds of packages that are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.formats import Format, wanted_formats


def test_those_that_are_named() -> None:
    assert wanted_formats("rpm,deb") == (Format.DEB, Format.SPEC, Format.RPM)
    assert wanted_formats("spec") == (Format.SPEC,)


def test_an_unknown_one() -> None:
    with pytest.raises(KlpError) as error:
        wanted_formats("deb,apk")
    assert str(error.value) == (
        "packages=deb,apk: 'apk' is no kind of package\n"
        "  Known: deb, spec, rpm, meta-deb, meta-rpm."
    )


def test_those_that_the_machine_has_programs_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wanted_formats("") == (Format.SPEC,)
    for name in ("dpkg-deb", "rpmbuild"):
        (tmp_path / name).touch(0o755)
    assert wanted_formats("") == (Format.DEB, Format.SPEC, Format.RPM)
