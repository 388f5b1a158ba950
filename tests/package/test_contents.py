"""What a package is called and brings, whatever its kind."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import Livepatch
from klpbuild.package.contents import (
    check_packageable,
    installed_version,
    maintainer,
    package_livepatch,
    package_name,
    source_date,
)
from tests.package.demo import RELEASE, demo_package

LIVEPATCH = Livepatch("demo", (), version="1")


def test_names(module: Path) -> None:
    package = demo_package(module)
    assert package.name == f"livepatch-demo-{RELEASE}"
    assert package.virtual_name == f"livepatch-{RELEASE}"
    assert package.unit == f"livepatch-demo-{RELEASE}.service"
    assert package.module_name == "livepatch_demo_1_2"
    newer = demo_package(module, release="6.12.117+deb12-cloud-amd64")
    assert newer.name == "livepatch-demo-6.12.117+deb12-cloud-amd64"
    # systemd takes no + in the name of a unit (systemd.unit(5)).
    assert newer.unit == "livepatch-demo-6.12.117-deb12-cloud-amd64.service"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("livepatch-a_b-6.12.117+deb12-cloud-amd64", "livepatch-a-b-6.12.117+deb12-cloud-amd64"),
        ("livepatch-x-5.14.0-162.6.1.el9_1.x86_64", "livepatch-x-5.14.0-162.6.1.el9-1.x86-64"),
        ("livepatch-X-6.1.0-rc1~A", "livepatch-x-6.1.0-rc1-a"),
    ],
)
def test_names_are_those_that_dpkg_takes(text: str, name: str) -> None:
    assert package_name(text) == name


def test_the_unit(module: Path) -> None:
    files = {file.path: file for file in demo_package(module).files("/lib/systemd/system")}
    unit = files[f"/lib/systemd/system/livepatch-demo-{RELEASE}.service"].data.decode()
    lines = [line for line in unit.splitlines() if not line.startswith("#")]
    assert lines == [
        "[Unit]",
        f"Description=Livepatch demo 1.2 for Linux {RELEASE}",
        f"ConditionKernelVersion={RELEASE}",
        "ConditionKernelCommandLine=!livepatch.enable=0",
        "ConditionVirtualization=!container",
        "ConditionPathIsDirectory=/sys/kernel/livepatch",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecCondition=/usr/libexec/livepatch-demo-{RELEASE}/livepatch is-for {RELEASE} 6.1.170-3",
        f"ExecStart=/usr/libexec/livepatch-demo-{RELEASE}/livepatch load livepatch_demo_1_2",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def test_the_files(module: Path, tmp_path: Path) -> None:
    provenance = tmp_path / "livepatch-demo-1_2.json"
    provenance.write_text("{}\n")
    files = demo_package(module, documents=(provenance,)).files("/units")
    assert {file.path: file.mode for file in files} == {
        f"/lib/modules/{RELEASE}/updates/livepatch/livepatch-x.ko": 0o644,
        f"/usr/share/livepatch/livepatch-demo-{RELEASE}/livepatch-demo-1_2.json": 0o644,
        f"/units/livepatch-demo-{RELEASE}.service": 0o644,
        f"/usr/libexec/livepatch-demo-{RELEASE}/livepatch": 0o755,
    }
    assert files[0].data == module.read_bytes()


def test_what_the_changelog_claims(module: Path, tmp_path: Path) -> None:
    """Only what the module mends in this kernel, which its provenance says."""
    assert demo_package(module).changes[-1] == "Fixes CVE-2024-1234, CVE-2024-5678."
    provenance = tmp_path / "livepatch-demo-1_2.provenance.json"
    mended = [{"kind": "cve", "id": "CVE-2024-5678"}, {"kind": "cve", "id": "CVE-2024-9"}]
    provenance.write_text(json.dumps({"predicate": {"references": mended}}))
    package = demo_package(module, documents=(provenance,))
    assert package.changes[-1] == "Fixes CVE-2024-5678, CVE-2024-9."


def test_the_changelog_lists_the_fixes(module: Path, tmp_path: Path) -> None:
    provenance = tmp_path / "livepatch-demo-1_2.provenance.json"
    predicate = {
        "references": [
            {"kind": "cve", "id": "CVE-2024-5678", "where": "livepatch.toml"},
            {"kind": "cve", "id": "CVE-2024-7777", "where": "0001-a.patch:12"},
            {"kind": "upstream commit", "id": "abcdef", "where": "0001-a.patch:9"},
        ],
        "patches": [
            {"name": "0001-a.patch", "subject": "mm: check the length", "changes_nothing": None},
            {"name": "0002-b.patch", "subject": "mm: a lock", "changes_nothing": None},
            {"name": "0003-c.patch", "subject": "mm: other", "changes_nothing": "not built"},
        ],
    }
    provenance.write_text(json.dumps({"predicate": predicate}))
    package = demo_package(module, documents=(provenance,))
    assert package.changes == (
        "a line of its own in /proc/version",
        "mm: check the length (CVE-2024-7777)",
        "mm: a lock",
        "Fixes CVE-2024-5678.",
    )
    assert package.about[1:] == ("Fixes CVE-2024-5678, CVE-2024-7777.",)
    assert package.cves == ("cve-2024-5678", "cve-2024-7777")


def test_the_changelog_lists_parts(module: Path, tmp_path: Path) -> None:
    def fix(part: str, patch: str, result: str, **more: object) -> dict[str, object]:
        told = {
            "part": part,
            "patch": patch,
            "result": result,
            "subject": "",
            "why": "",
            "cves": [],
        }
        return {**told, **more}

    provenance = tmp_path / "livepatch-demo-1_2.provenance.json"
    predicate = {
        "references": [{"kind": "cve", "id": "CVE-2024-5678", "where": "livepatch.toml"}],
        "patches": [{"name": "1.patch", "subject": "mm: a lock", "changes_nothing": None}],
        "fixes": [
            fix("hand", "", "in", subject="tun: a limit", cves=["CVE-2024-5678"]),
            fix("bsc1", "", "changes nothing in this kernel", subject="not here"),
            fix("fixes", "1.patch", "in", subject="mm: a lock"),
            fix("fixes", "2.patch", "left out on purpose", why="only matters at boot"),
            fix("bsc2", "", "left out on purpose", why="waits for review"),
        ],
    }
    provenance.write_text(json.dumps({"predicate": predicate}))
    assert demo_package(module, documents=(provenance,)).changes == (
        "a line of its own in /proc/version",
        "tun: a limit (CVE-2024-5678)",
        "mm: a lock",
        "Without fixes/2.patch: only matters at boot",
        "Without bsc2: waits for review",
    )


def test_the_version_of_an_installed_kernel(
    fixtures_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = tmp_path / "dpkg-query"
    query.write_text(
        '#!/bin/sh\n[ "$*" = "--show --showformat=\\${Version} linux-headers-6.1.0-47-amd64" ]'
        " && printf 6.1.170-3\n"
    )
    query.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    installed = replace(
        fixtures_kernel,
        release="6.1.0-47-amd64",
        build=Path("/usr/src/linux-headers-6.1.0-47-amd64"),
    )
    assert installed_version(installed) == "6.1.170-3"
    assert installed_version(replace(installed, build=tmp_path)) == ""
    query.write_text("#!/bin/sh\nexit 1\n")
    assert installed_version(installed) == ""


def test_a_release_that_no_script_should_hold(fixtures_kernel: Kernel, module: Path) -> None:
    kernel = replace(fixtures_kernel, release="6.1;reboot")
    with pytest.raises(KlpError) as error:
        package_livepatch(LIVEPATCH, kernel, module, "/lib", 0)
    assert str(error.value) == (
        "fixtures: release '6.1;reboot' cannot be a package's\n"
        "  Letters, digits and . _ + ~ - can be in it."
    )


def test_a_missing_module(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as error:
        demo_package(tmp_path / "gone.ko").files("/units")
    assert str(error.value) == f"{tmp_path}/gone.ko: cannot be read: No such file or directory"


def test_a_livepatch_needs_a_version() -> None:
    check_packageable(LIVEPATCH)
    with pytest.raises(KlpError) as error:
        check_packageable(replace(LIVEPATCH, version=""))
    assert str(error.value) == (
        "livepatch demo has no version\n"
        "  A package needs one, and the kernel loads a newer livepatch beside the older one\n"
        "  only if their modules' names differ: the version is part of the name.\n"
        '  Write version = "1" into its livepatch.toml.'
    )


def test_a_livepatch_replaces() -> None:
    with pytest.raises(KlpError) as error:
        check_packageable(replace(LIVEPATCH, replace=False))
    assert str(error.value) == (
        "livepatch demo does not replace those before it\n"
        "  After an upgrade of its package the older version would stay in force below it.\n"
        "  Take replace = false out of its livepatch.toml, or install the module without\n"
        "  a package."
    )


def test_a_livepatch_with_its_own_tables_replaces(tmp_path: Path) -> None:
    source = tmp_path / "demo.c"
    livepatch = replace(LIVEPATCH, own_tables=True, sources=(source,))
    source.write_text("static struct klp_patch patch = { .replace = true };\n")
    check_packageable(livepatch)
    source.write_text("static struct klp_patch patch = { .mod = THIS_MODULE };\n")
    with pytest.raises(KlpError) as error:
        check_packageable(livepatch)
    assert str(error.value) == (
        "livepatch demo does not replace those before it\n"
        "  After an upgrade of its package the older version would stay in force below it.\n"
        "  Write .replace = true into its struct klp_patch, or install the module without\n"
        "  a package."
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DEBFULLNAME": "A B", "DEBEMAIL": "a@b.invalid"}, "A B <a@b.invalid>"),
        ({"DEBEMAIL": "A B <a@b.invalid>"}, "A B <a@b.invalid>"),
        ({"NAME": "A B", "EMAIL": "a@b.invalid"}, "A B <a@b.invalid>"),
        ({"NAME": "x", "DEBFULLNAME": "É", "DEBEMAIL": "a@b.invalid"}, "É <a@b.invalid>"),
        ({}, "Unknown <unknown@invalid.invalid>"),
    ],
)
def test_the_maintainer(environment: dict[str, str], expected: str) -> None:
    assert maintainer(environment) == expected


@pytest.mark.parametrize("address", ["a\nb@c", "a b", "a@b, c@d"])
def test_no_maintainer(address: str) -> None:
    with pytest.raises(KlpError) as error:
        maintainer({"DEBFULLNAME": "A", "DEBEMAIL": address})
    assert str(error.value) == (
        f"DEBFULLNAME and DEBEMAIL: {f'A <{address}>'!r} is no maintainer\n"
        "  Set them to a name and an address."
    )


def test_the_date(tmp_path: Path) -> None:
    assert source_date(tmp_path, 17) == 17
    (tmp_path / "a.c").touch()
    (tmp_path / "b.c").touch()
    os.utime(tmp_path / "a.c", (5000, 5000))
    os.utime(tmp_path / "b.c", (4000, 4000))
    assert source_date(tmp_path) == 5000
    environment = {**os.environ, "GIT_COMMITTER_DATE": "@1600000000 +0000"}
    who = ["-c", "user.name=A", "-c", "user.email=a@b.invalid"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=environment, check=True)
    assert source_date(tmp_path) == 1_600_000_000
