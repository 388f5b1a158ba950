"""Keep what was extracted from an object by the content of its two versions.

A livepatch of sixty fixes gets two more: the sixty objects before need not be compared again.
Kept is only what an object gives by itself.  One that shares names with others of the patch, or
was compared with them, is extracted anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from klpbuild.arch import Architecture
from klpbuild.extract.extraction import extract_part
from klpbuild.extract.keys import branch_keys, changed_functions
from klpbuild.extract.part import Part
from klpbuild.extract.result import Extraction, Key, KeyPolicy, KeyUse
from klpbuild.files.kept import code_key, content_key, find_kept, keep, kept_or_made
from klpbuild.files.records import from_json, to_json
from klpbuild.patch.pair import CompiledPatch, ObjectPair


@dataclass(frozen=True)
class _Record:
    """An extraction, and what it was told of the keys that it asked for."""

    extraction: Extraction
    asked: tuple[tuple[Key, KeyUse], ...]


@dataclass(frozen=True)
class KeptParts:
    """The extractions that are kept for the tree in which a patch was compiled.

    :ivar directory: where they are.
    :ivar digests: those of the patched files, by their paths.
    """

    directory: Path
    digests: Mapping[str, str]

    @classmethod
    def of(cls, compiled: CompiledPatch) -> KeptParts:
        """Find what is kept for a patch's tree."""
        return cls(compiled.tree.kept / "extracted", compiled.compiler.digests)

    def branching(self, pair: ObjectPair, part: Part) -> tuple[Key, ...]:
        """Find the static keys of the kernel that changed code of an object branches by."""
        return kept_or_made(
            self._path(pair, "keys"),
            self._content(pair, part),
            lambda: tuple(branch_keys(part, changed_functions(part))),
            to_json,
            partial(from_json, tuple[Key, ...]),
        )

    def extract(
        self,
        pair: ObjectPair,
        part: Part,
        arch: Architecture,
        policy: KeyPolicy,
        renewed: frozenset[str],
    ) -> Extraction:
        """Extract what changes in an object, see `klpbuild.extract.extraction.extract_part`.

        :raises KlpError: with every reason why the change cannot be made to a running kernel.
        """
        if not part.is_alone:
            return extract_part(part, arch, policy, renewed)
        path, content = self._path(pair, "extraction"), self._content(pair, part, renewed)
        kept = find_kept(path, content, partial(from_json, _Record))
        if kept is not None and all(policy(key) is use for key, use in kept.asked):
            return replace(kept.extraction, number=part.number)
        told: dict[Key, KeyUse | str] = {}

        def ask(key: Key) -> KeyUse | str:
            return told.setdefault(key, policy(key))

        found = extract_part(part, arch, ask, renewed)
        asked = tuple((key, use) for key, use in told.items() if isinstance(use, KeyUse))
        if len(asked) == len(told):
            keep(path, content, to_json(_Record(found, asked)))
        return found

    def _path(self, pair: ObjectPair, kind: str) -> Path:
        return self.directory / f"{pair.target[:-2]}.{kind}"

    def _content(
        self, pair: ObjectPair, part: Part, renewed: frozenset[str] = frozenset()
    ) -> bytes:
        """Compute the key of all that decides about an extraction, but the rule for keys.

        The types of variables are not in the objects: what these are compiled from stands for them.
        """
        files = sorted((name, self.digests.get(name)) for name in {pair.source, *pair.files})
        names = (sorted(part.known), sorted(part.accepted_data), sorted(renewed))
        told = (part.owner, part.where, part.declares, part.sizes, pair.command.arguments)
        return content_key(
            code_key(),
            part.original.data,
            part.patched.data,
            repr((files, names, told)),
        )
