"""The tutorial, word for word, by an ordinary user of a Debian that has nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bare_debian import BareDebian
from tests.docs.document import read_document
from tests.docs.session import ROOT


@pytest.mark.bare_debian
def test_the_tutorial_word_for_word(tmp_path: Path) -> None:
    with BareDebian(tmp_path, "bookworm") as session:
        assert session.type("id --user --name") == (["reader"], 0)
        for absent in ("python3", "gcc", "git", "make"):
            assert session.type(f"type {absent}")[1] == 1
        session.run(read_document(ROOT / "docs/tutorial.md"), kernel=True, never=True)
    assert session.problems == [], "\n\n".join(session.problems)
