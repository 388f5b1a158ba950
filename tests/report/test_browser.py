"""The report page in a real browser: light and dark, wide and narrow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.report.boot import add_boot
from klpbuild.report.page import page
from klpbuild.report.picture import References
from klpbuild.report.timings import Timing
from tests.report.browser import Browser, find_chromium
from tests.report.built import make_facts
from tests.report.test_page import HARM, many_nodes

pytestmark = pytest.mark.browser

WINDOWS = [(1400, 900, False), (1400, 900, True), (400, 800, False), (400, 800, True)]

#: WCAG 2.2, 1.4.3: contrast of text.
CONTRAST_MIN = 4.5

#: Where screenshots go, to be looked at.
SHOTS = os.environ.get("KLPBUILD_SCREENSHOTS", "")

#: A script that finds what hinders people with disabilities.
AXE = os.environ.get("KLPBUILD_AXE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        if os.environ.get("KLPBUILD_REQUIRE_KERNEL") == "1":
            pytest.fail("chromium is not installed: apt-get install chromium")
        pytest.skip("chromium is not installed")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def plain(miniature: KernelSide, good: dict[str, bytes], tmp_path: Path) -> Path:
    """The page of a livepatch of a few names, some of which would do harm."""
    facts = make_facts(miniature, good["meminfo"], tmp_path, fates=HARM)
    facts = dataclasses.replace(
        facts, reasons={"livepatch_meminfo_proc_show": f"a reason with {HARM} " * 8}
    )
    timings = [Timing("CC", "livepatch-meminfo/x.o", 1.5), Timing("KLP", "x" * 90, 0.01)]
    path = tmp_path / "plain.html"
    path.write_bytes(page(facts, timings))
    add_boot(path, ["      ok  insmod x.ko", "x " * 200, HARM, "x: loaded."], passed=True)
    return path


@pytest.fixture
def large(
    miniature: KernelSide,
    good: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The page of a livepatch of 300 names."""
    nodes, edges = many_nodes()
    monkeypatch.setattr(References, "_graph", (tuple(nodes), tuple(edges)))
    path = tmp_path / "large.html"
    path.write_bytes(page(make_facts(miniature, good["meminfo"], tmp_path)))
    return path


LOOK = """(() => {
  const frame = document.querySelector(".picture").getBoundingClientRect();
  const nodes = [...document.querySelectorAll(".node")];
  const edges = [...document.querySelectorAll(".edge")];
  const outside = [...nodes, ...edges].filter((element) => {
    const box = element.getBoundingClientRect();
    return !(box.width || box.height) || box.left < frame.left || box.right > frame.right
      || box.top < frame.top || box.bottom > frame.bottom;
  });
  const spills = nodes.filter((node) => node.scrollWidth > node.clientWidth);
  const boxes = nodes.map((node) => node.getBoundingClientRect());
  const overlaps = nodes.filter((_, one) => boxes.some((box, other) => other > one
    && box.left < boxes[one].right && box.right > boxes[one].left
    && box.top < boxes[one].bottom && box.bottom > boxes[one].top));
  return {
    nodes: nodes.length, outside: outside.length, edges: edges.length,
    letters: parseFloat(getComputedStyle(nodes[0]).fontSize),
    spills: [...spills, ...overlaps].map((node) => node.textContent),
    width: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,
    wide: [...document.querySelectorAll("body *")].filter((element) =>
      !element.closest("svg, .diff, thead")
      && element.getBoundingClientRect().right > innerWidth + 0.5
    ).map((element) => element.tagName + "." + element.className),
  };
})()"""

CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const ratio = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)];
    return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  };
  const worst = {};
  const note = (name, value) => { worst[name] = Math.min(worst[name] ?? 99, value); };
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    if (element.closest("svg")) continue;
    const color = parse(getComputedStyle(element).color);
    note(element.tagName + "." + element.className, ratio(color, ground(element)));
  }
  return worst;
})()"""


def look(browser: Browser, path: Path, window: tuple[int, int, bool]) -> dict[str, Any]:
    """Show a page, take its picture, and say what is wrong with it."""
    width, height, dark = window
    browser.complaints.clear()
    browser.requests.clear()
    browser.show(path, width, height, dark=dark)
    browser.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # drawn
    if SHOTS:
        name = f"{path.stem}-{width}-{'dark' if dark else 'light'}.png"
        browser.screenshot(Path(SHOTS) / name)
    found: dict[str, Any] = browser.value(LOOK)
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
    assert (found["width"], found["wide"]) == (width, [])
    assert found["window"] == width
    assert (found["outside"], found["spills"]) == (0, [])
    browser.value("for (const each of document.querySelectorAll('details')) each.open = true")
    found |= {"opened": browser.value(LOOK)}
    assert (found["opened"]["width"], found["opened"]["wide"]) == (width, [])
    worst = browser.value(CONTRASTS)
    assert {name: ratio for name, ratio in worst.items() if ratio < CONTRAST_MIN} == {}
    return found


@pytest.mark.parametrize("window", WINDOWS)
def test_a_page(browser: Browser, plain: Path, window: tuple[int, int, bool]) -> None:
    found = look(browser, plain, window)
    assert found["nodes"] >= 4
    assert found["letters"] >= 9
    assert browser.value("document.title") == "livepatch-meminfo for 6.1.0-miniature"
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 22, 24)" if window[2] else "rgb(247, 247, 244)")


@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[3]])
def test_three_hundred_names(browser: Browser, large: Path, window: tuple[int, int, bool]) -> None:
    found = look(browser, large, window)
    assert (found["nodes"], found["edges"]) == (300, 280)
    assert found["letters"] >= 8


CENTRE = """(() => {
  document.querySelector(".picture").scrollIntoView({block: "center", behavior: "instant"});
  const box = [...document.querySelectorAll(".node")].find((node) =>
    node.textContent.includes("NAME")).getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
})()"""


def centre(browser: Browser, name: str) -> tuple[float, float]:
    """Where a name stands in the window."""
    x, y = browser.value(CENTRE.replace("NAME", name))
    return x, y


def test_the_picture_can_be_explored(browser: Browser, plain: Path) -> None:
    browser.show(plain, 1400, 900, dark=False)
    near = "[...document.querySelectorAll('.node.near')].map((t) => t.textContent)"
    details = "document.getElementById('details').innerText"
    x, y = centre(browser, "si_swapinfo")
    browser.mouse("mouseMoved", x, y)
    assert sorted(browser.value(near)) == ["livepatch_meminfo_proc_show", "si_swapinfo"]
    browser.mouse("mouseMoved", 5, 5)
    assert browser.value(near) == []

    browser.click(x, y)
    said = browser.value(details)
    assert "si_swapinfo" in said and "only one in vmlinux" in said
    assert ".klp.sym.vmlinux.si_swapinfo,0" in said
    browser.mouse("mouseMoved", 5, 5)
    assert len(browser.value(near)) == 2  # it stays
    if SHOTS:
        browser.screenshot(Path(SHOTS) / "chosen.png", whole=False)
    browser.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert browser.value(near) == []
    assert browser.value(details) == ""

    browser.value("document.querySelector('.node').focus()")
    browser.press("Enter")
    name = browser.value("document.querySelector('.node').textContent")
    assert name in browser.value(details)
    assert browser.complaints == []


def test_the_search(browser: Browser, large: Path) -> None:
    browser.show(large, 1400, 900, dark=False)
    browser.value("document.getElementById('search').focus()")
    browser.call("Input.insertText", text="EXPORTED_19")
    assert browser.value("document.getElementById('hits').textContent") == "11 of 300"
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
    assert "an_exported_19" in browser.value("document.getElementById('details').innerText")
    chosen = "document.querySelector('.node.chosen')"
    assert browser.value(f"{chosen}.textContent").startswith("an_exported_19")
    browser.value("new Promise((done) => setTimeout(done, 1000))")  # it scrolls there
    assert 0 < browser.value(f"{chosen}.getBoundingClientRect().top") < 900
    assert browser.complaints == []


def test_diffs_side_by_side(browser: Browser, plain: Path) -> None:
    browser.show(plain, 1400, 900, dark=False)
    sides = "[...document.querySelectorAll('.sides > div')].map((e) => e.textContent)"
    assert browser.value(sides) == []
    browser.value("document.getElementById('sides').click()")
    before, after, old, new = browser.value(sides)
    assert before.endswith("-old") and after.endswith("+new")
    assert "mov rbp, rdi" in old and "mov rbx, rdi" in new  # of the machine code
    assert browser.value("document.querySelector('pre.diff').hidden") is True
    if SHOTS:
        browser.screenshot(Path(SHOTS) / "sides.png", whole=False)
    browser.value("document.getElementById('sides').click()")
    assert browser.value(sides) == []
    assert browser.complaints == []


def test_tables_are_sorted_and_filtered(browser: Browser, plain: Path) -> None:
    browser.show(plain, 1400, 900, dark=False)
    ordinary = "#symbols details:nth-of-type(2)"
    names = f"[...document.querySelectorAll('{ordinary} tbody tr:not([hidden]) td:first-child')]"
    names += ".map((cell) => cell.textContent)"
    first = browser.value(names)
    assert len(first) == 2
    heading = f"document.querySelector('{ordinary} th')"
    browser.value(f"{heading}.firstChild.click()")
    assert browser.value(f"{heading}.getAttribute('aria-sort')") == "ascending"
    ascending = browser.value(names)
    browser.value(f"{heading}.firstChild.click()")
    assert browser.value(names) == ascending[::-1]

    browser.value("document.querySelector('input.filter').focus()")
    browser.call("Input.insertText", text="SI_MEM")
    assert browser.value(names) == ["si_meminfo"]
    assert browser.value(f"document.querySelector('{ordinary}').open") is True
    assert browser.complaints == []


def test_printed_on_paper(browser: Browser, plain: Path) -> None:
    browser.show(plain, 800, 1000, dark=False)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        shown = "getComputedStyle(document.querySelector('nav')).display"
        assert browser.value(shown) == "none"
        assert browser.value("document.documentElement.scrollWidth") <= 800
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


#: Whether what has the focus is marked by a line around it.
MARKED = 'getComputedStyle(document.activeElement).outlineStyle !== "none"'


def test_the_keyboard_reaches_everything(browser: Browser, plain: Path) -> None:
    """In the order of the page, each with a mark of its own; Enter and the space bar act."""
    browser.show(plain, 1400, 900, dark=False)
    wanted = "a[href], button, input, select, summary, [tabindex]:not([tabindex='-1'])"
    browser.value(f"""window.wanted = [...document.querySelectorAll("{wanted}")]
        .filter((e) => e.checkVisibility())""")
    count = browser.value("wanted.length")
    assert count > 5
    seen, unmarked = [], []
    for _ in range(count):
        browser.press("Tab")
        seen.append(browser.value("wanted.indexOf(document.activeElement)"))
        if not browser.value(MARKED):
            unmarked.append(browser.value("document.activeElement.outerHTML.slice(0, 200)"))
    assert (seen, unmarked) == (list(range(count)), [])
    browser.value("document.querySelector('#symbols summary').focus()")
    opened = "document.querySelector('#symbols details').open"
    before = browser.value(opened)
    browser.press("Enter")
    assert browser.value(opened) is not before
    browser.press(" ")
    assert browser.value(opened) is before
    assert browser.complaints == []


@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing(browser: Browser, plain: Path, window: tuple[int, int, bool]) -> None:
    """``KLPBUILD_AXE`` names axe.min.js of the npm package axe-core."""
    if not AXE:
        pytest.skip("axe-core is not there: KLPBUILD_AXE=FILE names its axe.min.js")
    width, height, dark = window
    browser.show(plain, width, height, dark=dark)
    browser.value(Path(AXE).read_text())
    found = browser.value("""axe.run().then((result) => result.violations.map(
        (each) => [each.id, each.nodes.map((node) => node.target.join(" "))]))""")
    assert found == []
