"""The command: formats, exit statuses, and what is said of too little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from klpbuild.check import formats
from klpbuild.check.catalogue import RULES
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes, check_module
from klpbuild.check.rule import Effect, Needs
from klpbuild.cli import main
from klpbuild.errors import Problem
from tests.check.breaks import BREAKS

BY_RULE = {broken.rule: broken for broken in BREAKS}


def broken(good: dict[str, bytes], rule: str) -> bytes:
    return BY_RULE[rule].change(good[BY_RULE[rule].base])


@pytest.fixture
def file(tmp_path: Path, good: dict[str, bytes]) -> Path:
    path = tmp_path / "livepatch-meminfo.ko"
    path.write_bytes(good["meminfo"])
    return path


def test_a_module_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert " rules not checked: no kernel is named (KLP" in said
    assert ", ...; `klpbuild check -v` lists them)" in said
    held = [rule for rule in RULES if rule.holds_for(None)]
    alone = sum(rule.needs is Needs.MODULE for rule in held)
    assert f"{file}: well-formed: nothing found, {alone} of {len(held)} rules" in said


def test_headers_only(miniature: KernelSide, file: Path) -> None:
    report = check_module(file, miniature.kernel, None)
    whys = {u.why for u in report.unchecked}
    assert "the kernel's symbols are not at hand" in whys
    assert "no kernel is named" not in whys
    assert report.findings == ()


def test_findings_as_text(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.ko"
    path.write_bytes(broken(good, "KLP403"))
    assert main(["check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}:.text+0x")
    assert (
        lines[0].endswith(": error: symbol 34 is called '.klp.sym.vmlinux.si_swapinfo' [KLP403]")
        or "is called '.klp.sym.vmlinux.si_swapinfo' [KLP403]" in lines[0]
    )
    assert lines[1] == (
        "  the kernel refuses the module: symbol .klp.sym.vmlinux.si_swapinfo has an"
        " incorrectly formatted name"
    )
    assert lines[-1].startswith(f"{path}: a kernel would refuse it (KLP403): 1 error, ")


def test_fail_on(tmp_path: Path, good: dict[str, bytes]) -> None:
    path = tmp_path / "warning.ko"
    path.write_bytes(broken(good, "KLP421"))
    assert main(["check", str(path)]) == 0
    assert main(["check", "--fail-on", "warning", str(path)]) == 1


def test_what_cannot_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere.ko")]) == 2
    assert capsys.readouterr().err == (
        f"klpbuild: error: {tmp_path}/nowhere.ko: cannot be read: No such file or directory\n"
    )
    assert main(["check", str(tmp_path)]) == 2
    assert main(["check", "--kernel", "no-such-kernel", str(tmp_path)]) == 2


def test_json(good: dict[str, bytes], miniature: KernelSide) -> None:
    report = check_bytes(broken(good, "KLP405"), "bad.ko", miniature)
    document = json.loads(formats.as_json([report]))
    assert document["version"] == 1
    (found,) = document["reports"]
    assert found["would_load"] is False
    assert found["kernel"] == "6.1.0-miniature"
    (finding,) = found["findings"]
    assert finding["rule"] == "KLP405"
    assert finding["kernel_says"] == "symbol 'klpbuild_is_nowhere' not found in symbol table"
    assert finding["where"].startswith(".text+0x")


def test_sarif(good: dict[str, bytes], miniature: KernelSide) -> None:
    report = check_bytes(broken(good, "KLP409"), "bad.ko", miniature)
    document = json.loads(formats.as_sarif([report]))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        *(r.identifier for r in RULES),
        "refused",
    ]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("KLP409", "error")


def test_what_cannot_be_read_is_in_sarif_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere.ko"
    assert main(["check", str(path), "--format", "sarif"]) == 2
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("refused", "error")
    assert result["message"]["text"] == "cannot be read: No such file or directory"
    assert result["locations"] == [{"logicalLocations": [{"fullyQualifiedName": str(path)}]}]


def test_a_refusal_in_sarif_has_the_line_of_the_patch(tmp_path: Path) -> None:
    path = tmp_path / "a fix.patch"
    path.write_text("x\n")
    problem = Problem("does not apply", f"{path}:3", "the rule", "do this")
    (run,) = json.loads(formats.as_sarif([], [problem]))["runs"]
    (result,) = run["results"]
    assert result["message"]["text"] == "does not apply\nthe rule\ndo this"
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": str(path).replace(" ", "%20")},
        "region": {"startLine": 3},
    }


def test_findings_are_annotations_in_github_s_actions(
    tmp_path: Path,
    good: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    path = tmp_path / "bad.ko"
    path.write_bytes(broken(good, "KLP403"))
    main(["check", str(path), "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["reports"]
    assert said.err.startswith("::error title=klpbuild,file=")


def test_a_terminal_does_not_obey_names(good: dict[str, bytes]) -> None:
    data = good["meminfo"].replace(
        b".klp.sym.vmlinux.si_swapinfo,0", b".klp.sym.\x1b[31mux.si_swapinfo,0"
    )
    report = check_bytes(data, "bad.ko", None)
    assert report.findings
    assert "\x1b" not in formats.as_text([report])


def test_late_refusals_are_told_apart(good: dict[str, bytes], miniature: KernelSide) -> None:
    report = check_bytes(broken(good, "KLP404"), "bad.ko", miniature)
    assert {f.effect for f in report.findings} == {Effect.LATE}
    assert report.refused is None
    assert report.summary.startswith("Linux 6.1.0-miniature would load it, and must not: ")


def explain(kernel: KernelSide, *words: object) -> int:
    """Run ``klpbuild explain`` for the miniature kernel, which no release names."""
    path, symbols = kernel.kernel.build, kernel.kernel.build / "symbols.klp"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("klpbuild.commands.explain.find_kernel", lambda text, further: kernel.kernel)
        return main(["explain", *map(str, words), "--kernel", str(path), "--symbols", str(symbols)])


def test_explain(miniature: KernelSide, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(miniature, file) == 0
    said = capsys.readouterr().out
    assert said.startswith("livepatch_meminfo_proc_show replaces meminfo_proc_show of vmlinux\n")
    assert "call vmlinux:si_meminfo" in said
    assert explain(miniature, file, "init_module", "--changes") == 0
    assert "init_module belongs to the module itself" in capsys.readouterr().out


def test_explain_refuses_other_files(
    miniature: KernelSide, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert explain(miniature, file) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"klpbuild: error: {file}: has ")
    assert "section headers at" in said
