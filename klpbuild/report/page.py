"""Write the report page: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

import klpbuild
from klpbuild.module import templates
from klpbuild.names import VMLINUX
from klpbuild.report.assembly import DiffLine, Kind, changed_code
from klpbuild.report.facts import Facts, Fate
from klpbuild.report.inputs import inputs_digest
from klpbuild.report.picture import References, Role
from klpbuild.report.references import PatchHeader, ReferenceKind
from klpbuild.report.timings import Timing

_DIRECTORY = Path(__file__).parent

#: Longer patches are cut on the page.
_LINES_MAX = 2000
#: Of more patches the diffs are folded, and of more names there is no picture.
_PATCHES_MAX, _NAMES_MAX = 12, 400

#: Names of the parts of the picture, in the order of the legend.
_LEGEND = {
    Role.REPLACED: "replaced in the kernel",
    Role.NEW: "replaces it",
    Role.OWN: "also in the livepatch",
    Role.LIVEPATCH: "livepatch relocation",
    Role.EXPORTED: "exported",
}


@dataclass(frozen=True)
class ShownPatch:
    """A patch with its lines, and how many of them are not shown."""

    header: PatchHeader
    lines: tuple[DiffLine, ...]
    cut: int

    @property
    def cves(self) -> list[str]:
        """The CVE numbers that it names."""
        return [r.id for r in self.header.references if r.kind is ReferenceKind.CVE]


@dataclass(frozen=True)
class SymbolRow:
    """A row of the table of symbols."""

    symbol: str
    fate: str
    owner: str
    when: str
    position: str
    why: str


def page(facts: Facts, timings: Sequence[Timing] = ()) -> bytes:
    """Render the report page of a livepatch.

    :param timings: of the build; they differ from build to build, and so does the page.
    """
    style, script = read_style(), (_DIRECTORY / "page.js").read_text()
    references = References(facts)
    nodes = references.nodes
    symbols = [_row(fate, facts) for fate in facts.fates]
    return render(
        "page.html.j2",
        facts=facts,
        contents=facts.contents,
        references=references,
        drawn=len(nodes) <= _NAMES_MAX,
        open=len(facts.patches) <= _PATCHES_MAX,
        numbers={node.key: number for number, node in enumerate(nodes)},
        legend=_LEGEND,
        details=[
            {"label": node.label, "role": _LEGEND[node.role], "details": node.details}
            for node in nodes
        ],
        patches=[_shown(*pair) for pair in zip(facts.patches, facts.headers, strict=True)],
        codes=changed_code(facts, references.replacements),
        symbols=symbols,
        tables={
            "livepatch symbol": [row for row in symbols if row.fate == "livepatch"],
            "ordinary symbol": [row for row in symbols if row.fate != "livepatch"],
        },
        fates=Counter(fate.fate for fate in facts.fates),
        unchecked=Counter(u.why for u in facts.check.unchecked if not u.about),
        inputs_digest=inputs_digest(facts.inputs),
        timings=timings,
        slowest=max((timing.seconds for timing in timings), default=0) or 1,
        seconds=sum(timing.seconds for timing in timings),
        version=klpbuild.__version__,
        style=style,
        script=script,
        style_hash=source_hash(style),
        script_hash=source_hash(script),
    )


def render(template: str, **names: object) -> bytes:
    """Render one of the templates of this room; names are escaped."""
    text = environment().get_template(template).render(**names)
    return text.encode(errors="backslashreplace")


def environment() -> jinja2.Environment:
    """Load the templates of this room."""
    found = templates.environment(_DIRECTORY, html=True)
    found.filters["breakable"] = _breakable
    return found


def _breakable(name: object) -> Markup:
    """Let a name break between its words: behind ``_``, ``.``, ``/`` and the like."""
    return Markup("<wbr>").join(re.findall(r"[^_./:,-]*[_./:,-]*", str(name))[:-1])


def read_style() -> str:
    """Read the style sheet of all pages."""
    return (_DIRECTORY / "page.css").read_text()


def source_hash(text: str) -> str:
    """Hash a piece of inline code as a Content-Security-Policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _row(fate: Fate, facts: Facts) -> SymbolRow:
    if fate.owner:
        when = "with the livepatch" if fate.gate == VMLINUX else f"when {fate.gate} loads"
        position = str(fate.sympos) if fate.sympos else "only one"
        return SymbolRow(fate.symbol, fate.fate, fate.owner, when, position, fate.why)
    export = facts.side.exports.find(fate.symbol)
    owner = export.owner if export else ""
    return SymbolRow(fate.symbol, fate.fate, owner, "with the livepatch", "", fate.why)


def _shown(path: Path, header: PatchHeader) -> ShownPatch:
    lines = path.read_bytes().decode(errors="replace").splitlines()
    starts = (n for n, line in enumerate(lines) if line.startswith(("diff --git ", "--- ")))
    lines = lines[next(starts, 0) :]
    shown = tuple(DiffLine(_kind(line), line) for line in lines[:_LINES_MAX])
    return ShownPatch(header, shown, max(len(lines) - _LINES_MAX, 0))


def _kind(line: str) -> Kind:
    if line.startswith(("diff --git ", "--- ", "+++ ", "index ")):
        return Kind.FILE
    return {"+": Kind.ADD, "-": Kind.DEL, "@": Kind.HUNK}.get(line[:1], Kind.SAME)
