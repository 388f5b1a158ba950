"""docs/reference.md, made from the code: python -m tests.docs.reference writes it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

from klpbuild.cli import make_parser
from klpbuild.compiler.driver import HEADER
from klpbuild.module import config
from klpbuild.module.accepted import Accepted
from klpbuild.module.livepatch import CALLBACKS, Function, Livepatch, PatchedObject
from klpbuild.terminal.manual import ENVIRONMENT, EXIT_STATUSES, man_page, markdown
from tests.docs.session import ROOT

PAGE = ROOT / "docs" / "reference.md"
#: What is installed for man(1).
MANUAL = ROOT / "docs" / "klpbuild.1"

#: Keys whose field has another name.
_FIELDS = {
    "object": "objects",
    "accept_layouts": "layouts",
    "accept_threads": "threads",
    "accept_data": "data",
    "state_version": "states",
}
_WHEN = {
    "pre_patch": "before the object is patched; may refuse with an error",
    "post_patch": "when every task runs the new code",
    "pre_unpatch": "before the object goes back to the old code",
    "post_unpatch": "when every task runs the old code again",
}


def page() -> str:
    """The whole document."""
    parts = [
        "# Reference",
        "Made from the code by `python -m tests.docs.reference`; a test compares. "
        "[tutorial.md](tutorial.md) is where to begin.",
        "## scons",
        _fenced("", scons_help()),
        "## livepatch.toml",
        _fenced("toml", _example()),
        *_keys("Keys", config._KEYS, Livepatch, Accepted),
        *_keys("Keys of `[[object]]`", config._OBJECT_KEYS, PatchedObject),
        *_keys("Keys of a function", config._FUNCTION_KEYS, Function),
        "### Callbacks",
        _table((name, _WHEN[name]) for name in CALLBACKS),
        "## C macros",
        "Every source of a livepatch sees `klpbuild/livepatch.h`:",
        _fenced("c", "\n\n".join(_macros())),
        "## klpbuild",
        markdown(make_parser()).strip(),
        "## Exit statuses",
        _table(EXIT_STATUSES),
        "## Environment",
        _table(ENVIRONMENT),
    ]
    return "\n\n".join(parts) + "\n"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def scons_help() -> str:
    """What ``scons -h`` prints of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-h", "-Q"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    ours = done.stdout.partition("Use scons -H")[0]
    return ours.replace("scons: Reading SConscript files ...\n", "").replace(
        "scons: done reading SConscript files.\n", ""
    ).strip()  # fmt: skip


def _example() -> str:
    """The file that the reader's documentation shows."""
    lines = (config.__doc__ or "").partition("::\n")[2].splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines).strip()


def _keys(title: str, keys: Iterable[str], *described: type) -> Iterator[str]:
    text = "\n:".join(each.__doc__ or "" for each in described)
    texts = dict(re.findall(r":ivar (\w+): (.*?)(?=\n *:|\Z)", text, re.DOTALL))
    yield f"### {title}"
    yield _table((key, texts[_FIELDS.get(key, key)]) for key in keys)


def _macros() -> Iterator[str]:
    """The comments of the header that explain macros."""
    yield from re.findall(r"/\*\n.*?\*/", HEADER.read_text(), re.DOTALL)[1:]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = ["| word | meaning |", "|---|---|"]
    for name, text in rows:
        plain = " ".join(text.replace("``", "`").split()).replace("|", r"\|")
        lines.append(f"| `{name}` | {plain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    MANUAL.write_text(man_page(make_parser()))
