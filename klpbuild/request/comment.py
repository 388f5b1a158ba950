"""Read from a C file's first comment what it mends."""

from __future__ import annotations

import re
from dataclasses import replace

from klpbuild.files.given import read_small_file
from klpbuild.module.livepatch import Livepatch
from klpbuild.report.references import ReferenceKind, find_references

_SIZE_MAX = 1 << 26
_COMMENT = re.compile(r"\s*/\*(.*?)\*/", re.DOTALL)
_FIX = re.compile(r"\bfix (?:for|to) .*", re.IGNORECASE)


def with_comment(livepatch: Livepatch) -> Livepatch:
    """Give a livepatch that does not say it itself the CVE numbers of its comments."""
    description, references = livepatch.description, list(livepatch.references)
    for source in livepatch.sources:
        text = read_small_file(source, _SIZE_MAX).decode(errors="replace")
        if (match := _COMMENT.match(text)) is None:
            continue
        found = find_references(match[1], source.name)
        references += [r.id for r in found if r.kind is ReferenceKind.CVE]
        said = _FIX.search(match[1])
        description = description or (said[0].strip() if said else "")
    unique = tuple(dict.fromkeys(references))
    return replace(livepatch, description=description, references=unique)
