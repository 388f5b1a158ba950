"""What was taken out of the kernel's patched objects, kept between two steps of a build."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files import write_file
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
        """Write it as JSON, and its objects once more into an archive beside that.

        The two files are all that is needed, for instance on another machine.  The JSON
        has a digest of each object, so that its bytes tell of any change.
        """
        contents = {str(o.relative_to(path.parent)): o.read_bytes() for o in self.objects}
        record = {
            "objects": [
                {"path": name, "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in contents.items()
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
        write_file(archive_path(path), _archive(contents))
        write_file(path, (json.dumps(record, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Extracted:
        """Read what `write` wrote."""
        record = json.loads(path.read_text())
        return cls(
            tuple(path.parent / entry["path"] for entry in record["objects"]),
            tuple(
                PatchedObject(entry["object"], tuple(Function(**f) for f in entry["functions"]))
                for entry in record["functions"]
            ),
            tuple((plain, name) for plain, name in record["late_names"]),
            tuple(record["report"]),
            record["reasons"],
            record["places"],
        )

    @classmethod
    def restore(cls, path: Path) -> Extracted:
        """Read what `write` wrote, with the objects from the archive.

        :raises KlpError: when the archive does not hold them.
        """
        archive = archive_path(path)
        try:
            with tarfile.open(archive) as file:
                file.extractall(path.parent, filter="data")
        except (OSError, tarfile.TarError) as error:
            hint = f"Delete {path} and build again."
            raise KlpError(f"cannot be read: {error}", where=str(archive), hint=hint) from error
        return cls.read(path)


def archive_path(record: Path) -> Path:
    """Where the objects of a record are."""
    return record.with_suffix(".tar")


def _archive(contents: Mapping[str, bytes]) -> bytes:
    """A tar file without owners and times, so that the same objects give the same bytes."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return output.getvalue()
