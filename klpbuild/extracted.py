"""What was taken out of the kernel's patched objects, kept between two steps of a build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.elf.writer import write_file
from klpbuild.module.livepatch import Function, PatchedObject

#: Where `Extracted` is kept, in the livepatch's directory of outputs.
RECORD = "extracted.json"


@dataclass(frozen=True)
class Extracted:
    """What was taken out of the kernel's patched objects: all that a module needs.

    :ivar objects: finished objects, to be linked.
    :ivar functions: what they replace, by object of the kernel.
    :ivar late_names: names that undefined symbols get after the link, by those in `objects`.
    :ivar report: what was changed and what became of each reference, for people.
    :ivar reasons: why each function and variable is in the module, by its name there.
    :ivar places: how the place of each livepatch symbol was found, by its name there.
    """

    objects: tuple[Path, ...]
    functions: tuple[PatchedObject, ...]
    late_names: tuple[tuple[str, str], ...]
    report: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it as JSON, with a digest of each object, so that its bytes tell of any change."""
        record = {
            "objects": [
                {"path": str(o), "sha256": hashlib.sha256(o.read_bytes()).hexdigest()}
                for o in self.objects
            ],
            "functions": [
                {
                    "object": patched.name,
                    "functions": [
                        {"old": f.old, "new": f.new, "sympos": f.sympos, "where": f.where}
                        for f in patched.functions
                    ],
                }
                for patched in self.functions
            ],
            "late_names": self.late_names,
            "report": self.report,
            "reasons": dict(self.reasons),
            "places": dict(self.places),
        }
        write_file(path, (json.dumps(record, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Extracted:
        """Read what `write` wrote."""
        record = json.loads(path.read_text())
        return cls(
            tuple(Path(entry["path"]) for entry in record["objects"]),
            tuple(
                PatchedObject(entry["object"], tuple(Function(**f) for f in entry["functions"]))
                for entry in record["functions"]
            ),
            tuple((plain, name) for plain, name in record["late_names"]),
            tuple(record["report"]),
            record["reasons"],
            record["places"],
        )
