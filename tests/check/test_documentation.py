"""docs/check.md says what the catalogue says."""

from __future__ import annotations

import json

from tests.check.breaks import BREAKS
from tests.check.documentation import OBSERVED, PAGE, SITUATIONS, page


def test_the_page_is_made_from_the_catalogue() -> None:
    hint = "run python -m tests.check.documentation"
    assert PAGE.read_text() == page(), hint


def test_every_module_was_tried() -> None:
    record = json.loads(OBSERVED.read_text())
    tried = {broken.rule for broken in BREAKS if not broken.not_tried} | set(SITUATIONS)
    assert set().union(*record.values()) == tried
    for observed in record.values():
        assert "something else" not in "".join(observed.values())
