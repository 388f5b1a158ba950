"""Provenance and bill of materials: what they say, and that they are the same each time."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from klpbuild.check.kernelside import KernelSide
from klpbuild.elf.notes import build_id
from klpbuild.errors import KlpError
from klpbuild.package.compression import Compression
from klpbuild.patch.idle import Idle
from klpbuild.report.comparison import compare, provenance_beside, read_statement
from klpbuild.report.contents import read_contents
from klpbuild.report.facts import Facts, read_fates
from klpbuild.report.file import ModuleFile, read_file
from klpbuild.report.inputs import Input, InputKind, inputs_digest, modinfo_source, read_inputs
from klpbuild.report.provenance import as_json, provenance, source_date_epoch
from klpbuild.report.sbom import bill_of_materials
from klpbuild.report.text import as_document, as_text
from klpbuild.report.vex import vex
from tests.objects import compile_c
from tests.report.built import make_facts

INPUTS = (Input(InputKind.SOURCE, "a.c", "aa" * 32), Input(InputKind.PATCH, "b.patch", "bb" * 32))


def test_the_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    for name, text in (("z.c", "int z;\n"), ("a b.patch", "--- \n")):
        (tmp_path / name).write_text(text)
    words = ["sha256sum", "z.c", "a b.patch"]
    listed = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True).stdout
    digest = subprocess.run(["sha256sum"], input=listed, capture_output=True, check=True).stdout
    entries = [line.split("  ", 1) for line in listed.decode().splitlines()]
    inputs = [Input(InputKind.SOURCE, name, sha256) for sha256, name in entries]
    assert inputs_digest(inputs) == digest.decode().split()[0]


def test_the_source_of_the_modinfo() -> None:
    assert modinfo_source(INPUTS, ['CVE-1 "x"']) == (
        "// SPDX-License-Identifier: GPL-2.0-or-later\n"
        "/* Made by klpbuild: what this livepatch is made from.  Do not edit. */\n"
        "#include <linux/module.h>\n"
        "\n"
        'MODULE_INFO(klpbuild, "0.1.0");\n'
        f'MODULE_INFO(klpbuild_inputs, "{inputs_digest(INPUTS)}");\n'
        'MODULE_INFO(klpbuild_reference, "CVE-1 \\"x\\"");\n'
    )


def test_inputs_are_named_from_the_livepatch(
    miniature: KernelSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "fixes" / "x"
    directory.mkdir(parents=True)
    for name in ("x.c", "x.h", "livepatch.toml", "../common.h"):
        (directory / name).write_text(f"# {name}\n")
    inputs = read_inputs(
        miniature.kernel,
        directory,
        descriptions=[directory / "livepatch.toml"],
        sources=[directory / "x.c"],
        included=[directory / "x.h", directory / "../common.h", Path("/usr/include/stdio.h")],
    )
    assert [(i.kind.value, i.name) for i in inputs] == [
        ("source", "x.c"),
        ("description", "livepatch.toml#content"),
        ("header", "../common.h"),
        ("header", "x.h"),
        ("header", "klpbuild/livepatch.h"),
        ("kernel configuration", "kernel/.config"),
        ("kernel exports", "kernel/Module.symvers"),
    ]


def test_an_input_that_cannot_be_read(miniature: KernelSide, tmp_path: Path) -> None:
    with pytest.raises(KlpError) as error:
        read_inputs(miniature.kernel, tmp_path, sources=[tmp_path / "x.c"])
    assert str(error.value) == f"{tmp_path}/x.c: cannot be read: No such file or directory"


def test_what_it_says(facts: Facts) -> None:
    statement = provenance(facts)
    assert statement["subject"] == [
        {"name": "livepatch-meminfo.ko", "digest": {"sha256": facts.sha256}}
    ]
    said = statement["predicate"]
    assert said["patched"] == [
        {
            "object": "vmlinux",
            "functions": [
                {"old": "meminfo_proc_show", "sympos": 0, "new": "livepatch_meminfo_proc_show"}
            ],
            "callbacks": [],
        }
    ]
    assert [(r["kind"], r["id"][:13]) for r in said["references"]] == [
        ("other", "an outage"),
        ("commit", "1234567890abc"),
        ("upstream commit", "abcdefabcdefa"),
        ("cve", "CVE-2024-1234"),
        ("fixes commit", "1da177e4c3f4"),
    ]
    exported, own = said["symbols"]
    assert (exported["owner"], exported["crc"][:2], exported["sympos"]) == ("vmlinux", "0x", None)
    assert (own["owner"], own["gate"], own["crc"]) == ("vmlinux", "vmlinux", None)
    assert said["check"]["would_load"] is True
    assert said["patches"] == [
        {"name": "fix.patch", "subject": "mm: say that it is éasy", "changes_nothing": None}
    ]
    assert said["not_affected"] == []
    assert said["kernel"]["vmlinux_build_id"] == facts.build_id
    assert str(facts.module.parent) not in as_json(statement).decode()


def test_the_same_build_elsewhere_gives_the_same(
    miniature: KernelSide, good: dict[str, bytes], tmp_path: Path
) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        facts = make_facts(miniature, good["meminfo"], tmp_path / name, epoch=1700000000)
        made.append((as_json(provenance(facts)), bill_of_materials(facts)))
    assert made[0] == made[1]


def test_the_bill_of_materials_is_valid(facts: Facts) -> None:
    text = bill_of_materials(facts).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    said = json.loads(text)
    assert "timestamp" not in said["metadata"]
    component = said["metadata"]["component"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": facts.sha256}]
    (patch,) = component["pedigree"]["patches"]
    assert patch["type"] == "backport"
    assert {"type": "security", "id": "CVE-2024-1234"} in patch["resolves"]
    assert {c["name"] for c in said["components"]} >= {"linux", "gcc", "fix.patch"}


def test_what_a_patch_that_changes_nothing_would_mend(facts: Facts) -> None:
    """It is not claimed, and VEX says that the kernel is not affected."""
    why = "no object is made from drivers/x.c"
    idle = dataclasses.replace(facts, idle={"fix.patch": Idle(why)})
    said = provenance(idle)["predicate"]
    assert said["references"] == [{"kind": "other", "id": "an outage", "where": "livepatch.toml"}]
    assert said["not_affected"] == [{"id": "CVE-2024-1234", "where": "fix.patch:8", "why": why}]
    assert said["patches"][0]["changes_nothing"] == why
    text = bill_of_materials(idle).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    (patch,) = bill["metadata"]["component"]["pedigree"]["patches"]
    assert [issue["id"] for issue in patch["resolves"]] == ["an outage"]
    (vulnerability,) = bill["vulnerabilities"]
    assert vulnerability["id"] == "CVE-2024-1234"
    assert vulnerability["affects"] == [{"ref": "kernel"}]
    assert vulnerability["analysis"] == {
        "state": "not_affected",
        "justification": "code_not_present",
        "detail": f"fix.patch changes nothing in this kernel: {why}",
    }
    assert "vulnerabilities" not in json.loads(bill_of_materials(facts))
    (statement,) = json.loads(vex(idle))["statements"]
    assert statement["justification"] == "vulnerable_code_not_present"
    assert statement["impact_statement"] == f"fix.patch changes nothing in this kernel: {why}"


def test_a_scanner_is_told_what_is_mended(facts: Facts) -> None:
    said = json.loads(vex(dataclasses.replace(facts, epoch=1700000000)))
    assert said["@context"] == "https://openvex.dev/ns/v0.2.0"
    assert said["timestamp"] == "2023-11-14T22:13:20+00:00"
    (statement,) = said["statements"]
    assert statement["vulnerability"] == {"name": "CVE-2024-1234"}
    assert statement["status"] == "not_affected"
    assert statement["justification"] == "inline_mitigations_already_exist"
    (product,) = statement["products"]
    assert product["@id"].startswith(("pkg:deb/debian/linux-image-", "urn:x-klpbuild:linux:"))
    assert vex(facts) == vex(facts)


def test_the_time_is_source_date_epoch(facts: Facts) -> None:
    dated = dataclasses.replace(facts, epoch=1700000000)
    said = json.loads(bill_of_materials(dated))
    assert said["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert provenance(dated)["predicate"]["source_date_epoch"] == 1700000000


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert source_date_epoch() is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert source_date_epoch() == 1700000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(KlpError) as error:
        source_date_epoch()
    assert str(error.value) == (
        "SOURCE_DATE_EPOCH=yesterday: is not a number of seconds since 1970\n"
        "  `git log -1 --format=%ct` prints one."
    )


def test_a_build_id(tmp_path: Path) -> None:
    from klpbuild.elf.reader import ElfFile

    source = 'asm(".section .note.gnu.build-id,\\"a\\",@note\\n.long 4,3,3\\n.asciz \\"GNU\\"\\n'
    source += '.byte 1,2,255\\n.text");'
    assert build_id(ElfFile.read(compile_c(tmp_path, source))) == "0102ff"
    assert build_id(ElfFile.read(compile_c(tmp_path, "int x;"))) == ""


def test_what_an_extraction_knows_better(tmp_path: Path) -> None:
    row = {"symbol": "f", "fate": "livepatch", "why": "annotated", "gate": "ext4",
           "owner": "ext4", "sympos": 2, "relocations": 1}  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps([row]))
    (fate,) = read_fates(tmp_path / "r.json", {".klp.sym.ext4.f,2": "at its place in ext4"})
    assert fate.why == "at its place in ext4"


def carrying(digest: str) -> Any:
    """Modinfo lines as a module of klpbuild has them."""
    return {"livepatch": ["Y"], "klpbuild": ["0.1.0"], "klpbuild_inputs": [digest]}


def test_a_module_and_its_provenance(facts: Facts) -> None:
    path = facts.module.with_suffix(".provenance.json")
    file = read_file(facts.module)
    assert provenance_beside(file) is None
    path.write_bytes(as_json(provenance(facts)))
    assert provenance_beside(file) == path
    comparison = compare(path, file, facts.contents)
    assert comparison.file_matches and comparison.inputs_match is None and comparison.matches

    ours = dataclasses.replace(facts.contents, information=carrying(inputs_digest(facts.inputs)))
    comparison = compare(path, file, ours)
    assert comparison.inputs_match is True
    text = as_text(file, ours, comparison)
    assert "  is about this module, by its sha256\n" in text
    assert "  lists the 3 inputs whose digest the module carries\n" in text
    document = as_document(file, ours, comparison)
    assert json.loads(json.dumps(document))["provenance"]["inputs_match"] is True

    other = dataclasses.replace(facts.contents, information=carrying("00" * 32))
    changed = ModuleFile(facts.module, Compression.NONE, file.data + b"\0", None)
    comparison = compare(path, changed, other)
    assert not comparison.file_matches and comparison.inputs_match is False
    text = as_text(changed, other, comparison)
    assert "  IS ABOUT ANOTHER MODULE, by its sha256\n" in text
    assert "  LISTS OTHER INPUTS than those whose digest the module carries\n" in text


NONE_OF_OURS = (
    "PATH: is not a provenance file of klpbuild\n"
    "  It is an in-toto statement with the predicate urn:x-klpbuild:provenance:1.\n"
    "  Build the module again to get one."
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "PATH: is not JSON\n"),
        ("[]", NONE_OF_OURS),
        ('{"_type": "x", "predicateType": "urn:x-klpbuild:provenance:1"}', NONE_OF_OURS),
        ('{"_type": "https://in-toto.io/Statement/v1", "subject": 1, "predicate": {},'
         ' "predicateType": "urn:x-klpbuild:provenance:1"}', NONE_OF_OURS),
        ('{"_type": "https://in-toto.io/Statement/v1",'
         ' "predicateType": "urn:x-klpbuild:provenance:2"}',
         "PATH: has schema version 2\n"
         "  This klpbuild reads up to 1.\n"
         "  Use the klpbuild that made it, or a newer one."),
    ],
)  # fmt: skip
def test_a_provenance_that_cannot_be_used(
    tmp_path: Path, good: dict[str, bytes], text: str, said: str
) -> None:
    path = tmp_path / "x.provenance.json"
    path.write_text(text)
    file = ModuleFile(tmp_path / "x.ko", Compression.NONE, good["meminfo"], None)
    with pytest.raises(KlpError) as error:
        compare(path, file, read_contents(file.data, "x.ko"))
    assert str(error.value).startswith(said.replace("PATH", str(path)))


def test_a_pipe_is_no_provenance(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.json")
    with pytest.raises(KlpError) as error:
        read_statement(pipe)
    assert str(error.value) == f"{pipe}: is not a file"
