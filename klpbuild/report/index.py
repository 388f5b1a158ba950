"""Write the index page of a directory of outputs: every kernel with its livepatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from urllib.parse import quote

import klpbuild
from klpbuild.report.page import read_style, render, source_hash


@dataclass(frozen=True)
class Entry:
    """A livepatch that was built for a kernel.

    :ivar kernel: the directory of its outputs.
    :ivar module: ``livepatch-NAME``.
    :ivar state: its result, in words.
    :ivar good: whether nothing is wrong.
    :ivar page: whether it has a report page beside it.
    """

    kernel: str
    module: str
    state: str
    good: bool
    page: bool

    @property
    def link(self) -> str:
        """The address of its report page, from the directory of outputs."""
        return quote(f"{self.kernel}/{self.module}.html")


def index(entries: Sequence[Entry]) -> bytes:
    """Render the index page; the same entries give the same bytes."""
    ordered = sorted(entries, key=lambda entry: (entry.kernel, entry.module))
    style = read_style()
    return render(
        "index.html.j2",
        kernels={k: list(found) for k, found in groupby(ordered, key=lambda e: e.kernel)},
        entries=ordered,
        version=klpbuild.__version__,
        style=style,
        style_hash=source_hash(style),
    )
