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
  const shown = [...document.querySelectorAll("svg.picture")].filter((s) => s.clientWidth);
  const nodes = [...shown[0].querySelectorAll(".node")];
  const frame = shown[0].getBoundingClientRect();
  const outside = nodes.filter((node) => {
    const box = node.querySelector("rect").getBoundingClientRect();
    return !box.width || !box.height || box.left < frame.left || box.right > frame.right
      || box.top < frame.top || box.bottom > frame.bottom;
  });
  const boxes = nodes.map((node) => node.querySelector("rect").getBoundingClientRect());
  const spills = nodes.filter((node) => {
    const box = node.querySelector("rect").getBoundingClientRect();
    const text = node.querySelector("text").getBoundingClientRect();
    return text.right > box.right || text.left < box.left;
  });
  const letters = nodes[0].querySelector("text").getBoundingClientRect().height;
  return {
    pictures: shown.length, nodes: nodes.length, outside: outside.length, letters,
    spills: spills.map((node) => node.textContent),
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
  for (const node of document.querySelectorAll("svg .node")) {
    const text = parse(getComputedStyle(node.querySelector("text")).fill);
    const fill = parse(getComputedStyle(node.querySelector("rect")).fill);
    note(node.getAttribute("class"), ratio(text, fill));
  }
  for (const text of document.querySelectorAll("svg .frame text"))
    note("frame", ratio(parse(getComputedStyle(text).fill), ground(text.closest("svg"))));
  return worst;
})()"""


def look(browser: Browser, path: Path, window: tuple[int, int, bool]) -> dict[str, Any]:
    """Show a page, take its picture, and say what is wrong with it."""
    width, height, dark = window
    browser.complaints.clear()
    browser.requests.clear()
    browser.show(path, width, height, dark=dark)
    if SHOTS:
        name = f"{path.stem}-{width}-{'dark' if dark else 'light'}.png"
        browser.screenshot(Path(SHOTS) / name)
    found: dict[str, Any] = browser.value(LOOK)
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
    assert (found["width"], found["wide"]) == (width, [])
    assert found["window"] == width
    assert (found["pictures"], found["outside"], found["spills"]) == (1, 0, [])
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
    assert found["nodes"] == 300
    assert found["letters"] >= 8


CENTRE = """(() => {
  const shown = [...document.querySelectorAll("svg.picture")].find((s) => s.clientWidth);
  shown.scrollIntoView({block: "center", behavior: "instant"});
  const box = [...shown.querySelectorAll(".node")].find((node) =>
    node.textContent.includes("NAME")).querySelector("rect").getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2, box.width];
})()"""


def centre(browser: Browser, name: str) -> tuple[float, float, float]:
    """Where a name stands in the window, and how wide it is."""
    x, y, width = browser.value(CENTRE.replace("NAME", name))
    return x, y, width


def test_the_picture_can_be_explored(browser: Browser, plain: Path) -> None:
    browser.show(plain, 1400, 900, dark=False)
    near = "[...document.querySelectorAll('svg.wide .node.near text')].map((t) => t.textContent)"
    details = "document.getElementById('details').innerText"
    x, y, width = centre(browser, "si_swapinfo")
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

    browser.value("document.getElementById('in').click()")
    assert centre(browser, "si_swapinfo")[2] > width * 1.3
    browser.value("document.getElementById('fit').click()")
    assert centre(browser, "si_swapinfo")[2] == pytest.approx(width, abs=0.5)
    x, y, _ = centre(browser, "si_swapinfo")
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300, modifiers=2)  # with Ctrl
    zoomed = centre(browser, "si_swapinfo")
    assert zoomed[2] > width * 1.5
    assert zoomed[0] == pytest.approx(x, abs=2) and zoomed[1] == pytest.approx(y, abs=2)

    browser.mouse("mousePressed", x, y + 60, button="left", clickCount=1)
    for step in range(1, 6):
        browser.mouse("mouseMoved", x + 8 * step, y + 60 + 4 * step, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 40, y + 80, button="left", clickCount=1)
    moved = centre(browser, "si_swapinfo")
    assert moved[0] - zoomed[0] == pytest.approx(40, abs=3)
    assert moved[1] - zoomed[1] == pytest.approx(20, abs=3)
    assert browser.value("document.querySelector('.chosen')") is None  # it was no click
    assert browser.complaints == []


def test_the_search(browser: Browser, large: Path) -> None:
    browser.show(large, 1400, 900, dark=False)
    width = centre(browser, "an_exported_199")[2]
    browser.value("document.getElementById('search').focus()")
    browser.call("Input.insertText", text="EXPORTED_19")
    assert browser.value("document.getElementById('hits').textContent") == "11 of 300"
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
    assert "an_exported_19" in browser.value("document.getElementById('details').innerText")
    chosen = "document.querySelector('svg.wide .chosen text').textContent"
    assert browser.value(chosen).startswith("an_exported_19")
    assert centre(browser, browser.value(chosen))[2] > width
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


#: Whether what has the focus is marked: by a line around it, in the picture by a thicker one.
MARKED = """
    getComputedStyle(document.activeElement).outlineStyle !== "none" ||
    getComputedStyle(document.activeElement.querySelector("rect")).strokeWidth === "2.6px"
"""


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
