"""The page without a browser: all in one file, nothing that runs but its own code."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from klpbuild.arch import S390X
from klpbuild.check.kernelside import KernelSide
from klpbuild.report.assembly import changed_code
from klpbuild.report.boot import add_boot
from klpbuild.report.facts import Facts
from klpbuild.report.page import page
from klpbuild.report.picture import Edge, Node, References, Role
from klpbuild.report.timings import Timing, done, read_timings, timed, timing_table
from klpbuild.terminal.stopwatch import measured
from tests.report.built import PATCH, make_facts

HARM = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_is_fetched(facts: Facts) -> None:
    text = page(facts).decode()
    tags = Tags(text)
    assert not any({"src", "onerror", "onclick", "style"} & attributes.keys()
                   for _, attributes in tags.found)  # fmt: skip
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in tags.found}
    links = [a["href"] for tag, a in tags.found if tag == "a"]
    assert all(link is not None and link.startswith("#") for link in links)
    assert "url(" not in text.replace("url(#arrow", "") and "@import" not in text
    assert not re.search("https?:", text)


def test_what_it_shows(facts: Facts) -> None:
    text = Tags(page(facts, [Timing("CC", "livepatch-meminfo/x.o", 1.25)]).decode()).text
    for said in (
        "livepatch-meminfo", "mm: say that it is éasy", "CVE-2024-1234", "meminfo_proc_show",
        "livepatch_meminfo_proc_show", "code at +0x1 differs", "only one in vmlinux",
        "would load it", facts.sha256, "fix.patch", "1.25 s", "1.2 seconds",
    ):  # fmt: skip
        assert said in text


def test_names_that_would_do_harm(
    miniature: KernelSide, good: dict[str, bytes], tmp_path: Path
) -> None:
    patch = PATCH.replace("It was not", HARM).replace("+new", f"+{HARM}")
    patch = re.sub("Subject: .*", f"Subject: {HARM}", patch)
    facts = make_facts(miniature, good["meminfo"], tmp_path, patch=patch, fates=HARM)
    plain = Tags(page(make_facts(miniature, good["meminfo"], tmp_path, fates="x")).decode())
    tags = Tags(page(facts).decode())
    assert HARM in tags.text
    # Only where a line may break differs.
    assert [tag for tag, _ in tags.found if tag != "wbr"] == [
        tag for tag, _ in plain.found if tag != "wbr"
    ]


def test_what_comes_first(facts: Facts) -> None:
    """Fixes with their CVE numbers and open diffs, findings, then references and symbols."""
    text = page(facts).decode()
    sections = ["patched", "check", "references", "symbols", "build"]
    assert re.findall(r'<section id="(\w+)">', text) == sections
    fix = text[text.index("<article>") : text.index("</article>")]
    assert "<li>CVE-2024-1234</li>" in fix
    assert "<details open><summary>fix.patch</summary>" in fix
    assert "<details open><summary>1 livepatch symbol</summary>" in text
    assert "<details><summary>1 ordinary symbol</summary>" in text


def test_machine_code_on_demand(facts: Facts) -> None:
    """What differs from the shipped function, as `klpbuild explain` has it, and folded."""
    text = page(facts).decode()
    code = text[text.index('<details class="code">') :].partition("</details>")[0]
    assert code.startswith(
        '<details class="code"><summary><code>vmlinux:<wbr>meminfo_<wbr>proc_<wbr>show</code>'
    )
    lines = re.findall(r'<span class="(\w+)">(.*?)</span>', code)
    kinds = [kind for kind, _ in lines]
    assert {"add", "del", "hunk"} == set(kinds)
    assert ("hunk", "... 1 the same") in lines
    explained = [line for line in lines if line[0] == "add" and "livepatch_meminfo:said" in line[1]]
    assert len(explained) == 1
    # Old instructions before the new ones that take their place.
    assert "add del" not in " ".join(kinds)
    shown = f"klpbuild explain {facts.module.name} --kernel {facts.kernel.release}"
    assert shown in Tags(text).text


def test_machine_code_of_another_machine(facts: Facts) -> None:
    kernel = replace(facts.kernel, arch=S390X)
    assert changed_code(replace(facts, kernel=kernel), References(facts).replacements) == ()


def test_machine_code_has_its_limit(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klpbuild.report.assembly._LINES_MAX", 3)
    text = page(facts).decode()
    assert '<details class="code">' not in text and "Machine code" not in text


def test_what_the_kernel_said(facts: Facts, tmp_path: Path) -> None:
    """The log of the last boot, before the findings; that of an earlier one is gone."""
    path = tmp_path / "page.html"
    plain = page(facts)
    path.write_bytes(plain)
    add_boot(path, ["      ok  insmod x.ko", "FAILED: it crashed"], passed=False)
    assert '<p class="verdict bad">FAILED: it crashed</p>' in path.read_text()
    add_boot(path, [f"a {HARM}\x1b", *["line"] * 2000, "x: loaded."], passed=True)
    text = path.read_text()
    assert "FAILED" not in text
    sections = ["patched", "boot", "check", "references", "symbols", "build"]
    assert re.findall(r'<section id="(\w+)">', text) == sections
    assert '<p class="verdict good">x: loaded.</p>\n<details><summary>The boot</summary>' in text
    said = Tags(text).text
    assert f"a {HARM}\\x1b\nline\n" in said and "2 more lines are not shown." in said
    before, _, rest = text.partition("<!-- boot -->")
    assert before + "<!-- boot -->" + rest[rest.index("<!-- end of boot -->") :] == plain.decode()


def test_names_break_between_their_words(facts: Facts) -> None:
    assert "<code>si_<wbr>swapinfo</code>" in page(facts).decode()


def test_sixty_fixes(
    miniature: KernelSide,
    good: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Below two megabytes, the diffs folded, and without a picture that says nothing."""
    nodes = [Node(f"n{n}", f"some_function_{n}", Role.OWN, "vmlinux") for n in range(900)]
    monkeypatch.setattr(References, "_graph", (tuple(nodes), ()))
    facts = make_facts(miniature, good["meminfo"], tmp_path)
    patches = []
    for number in range(60):
        patches.append(tmp_path / f"{number:04}.patch")
        patches[-1].write_text(PATCH + "+a line of the fix(with, some, words);\n" * 60)
    data = page(replace(facts, patches=tuple(patches)))
    assert len(data) < 2_000_000
    assert b"900 names are too many for a picture" in data and b"<svg class" not in data
    assert b"<details><summary>0001.patch</summary>" in data


def test_a_name_that_would_do_harm_in_the_picture() -> None:
    from klpbuild.report.page import environment

    text = environment().from_string("<script>{{ x | tojson }}</script>").render(x=[HARM])
    assert text.count("<") == 2
    assert json.loads(text.removeprefix("<script>").removesuffix("</script>")) == [HARM]


def many_nodes() -> tuple[list[Node], list[Edge]]:
    """A livepatch of 300 names."""
    nodes = [Node(f"o{n}", f"function_{n}", Role.REPLACED, "vmlinux") for n in range(20)]
    nodes += [Node(f"n{n}", f"livepatch_function_{n}", Role.NEW, "livepatch") for n in range(20)]
    nodes += [Node(f"x{n}", f"some_symbol_of_{n}", Role.LIVEPATCH, "ext4") for n in range(60)]
    nodes += [Node(f"e{n}", f"an_exported_{n}", Role.EXPORTED, "vmlinux") for n in range(1, 200)]
    nodes.append(Node("e0", HARM, Role.EXPORTED, HARM))
    edges = [Edge(f"n{n}", f"o{n}", "replaces") for n in range(20)]
    edges += [Edge(f"n{n % 20}", f"e{n}", "uses") for n in range(200)]
    edges += [Edge(f"n{n % 20}", f"x{n}", "uses") for n in range(60)]
    return nodes, edges


def test_three_hundred_names_in_the_picture(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, in three bands; what one function uses stands together, what is exported last."""
    nodes, edges = many_nodes()
    monkeypatch.setattr(References, "_graph", (tuple(nodes), tuple(edges)))
    references = References(facts)
    assert [list(band) for band in references.bands] == [
        ["vmlinux"], ["livepatch"], ["ext4", HARM, "vmlinux"]
    ]  # fmt: skip
    assert sorted(node.key for node in references.nodes) == sorted(node.key for node in nodes)
    shown = [node for node in references.nodes if node.frame == "vmlinux"][20:]
    assert [node.label for node in shown[:2]] == ["an_exported_1", "an_exported_2"]
    drawn = Tags(page(facts).decode()).found
    assert sum("node" in (a.get("class") or "").split() for _, a in drawn) == 300


def test_timings(tmp_path: Path) -> None:
    for step, output in (("CC", "livepatch-x/x.o"), ("CC", "livepatch-xy/x.o"),
                         ("KLP", "livepatch-x.ko"), ("SYMBOLS", "symbols.klp"),
                         ("CC", "livepatch-x/x.o")):  # fmt: skip
        with timed(tmp_path, step, tmp_path / output):
            pass
    outputs = [timing.output for timing in read_timings(tmp_path, "livepatch-x")]
    assert outputs == ["livepatch-x.ko", "symbols.klp", "livepatch-x/x.o"]
    assert read_timings(tmp_path / "nowhere", "livepatch-x") == ()


def test_timings_of_parts_count_no_time_twice(tmp_path: Path) -> None:
    before = len(done())
    with timed(tmp_path, "EXTRACT", tmp_path / "record"), measured("compile"):
        for _ in range(2):
            with measured("prepare"):
                time.sleep(0.01)
    timing = done()[before]
    assert list(timing.parts) == ["compile", "prepare"]
    assert timing.parts["prepare"][0] >= 0.02
    assert sum(seconds for seconds, _ in timing.parts.values()) <= timing.seconds + 0.001


def test_timings_are_shown_as_a_table() -> None:
    timings = (Timing("start", "", 0.4, 0.3), Timing("KLP", "x.ko", 12.5, 0.25, {"check": (1, 0)}))
    assert timing_table(timings) == [
        " seconds  processor  step",
        "    0.40       0.30  start",
        "   12.50       0.25  KLP  x.ko",
        "    1.00       0.00    check",
        "   12.90       0.55  all",
    ]
