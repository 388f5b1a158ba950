"""The record of extracted objects, kept between two steps of a build."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_output, to_json
from klpbuild.files.whole import write_file
from klpbuild.module.livepatch import Livepatch, PatchedObject
from klpbuild.module.parts import merged_objects
from klpbuild.patch.fix import Fix
from klpbuild.patch.idle import Idle

#: The record of `Extracted`, in the livepatch's directory of outputs.
RECORD = "extracted.json"


@dataclass(frozen=True)
class Extracted:
    """Objects extracted from the kernel's patched ones, with all that a module needs.

    :ivar objects: finished objects, to be linked.
    :ivar functions: what they replace, by object of the kernel.
    :ivar late_names: names that undefined symbols get after the link, by those in `objects`.
    :ivar report: what was changed, for people.
    :ivar references: how each reference was resolved, for people.
    :ivar reasons: why each function and variable is in the module, by its name there.
    :ivar places: how the place of each livepatch symbol was found, by its name there.
    :ivar idle: the patches that change nothing in this kernel, by name.
    :ivar fixes: the result of each patch, in their order.
    :ivar allocates: whether its code allocates shadow variables.
    """

    objects: tuple[Path, ...]
    functions: tuple[PatchedObject, ...]
    late_names: tuple[tuple[str, str], ...]
    report: tuple[str, ...]
    references: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Idle] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    allocates: bool = False

    def write(self, path: Path) -> None:
        """Write the record as JSON, and its objects once more into an archive beside that.

        The two files are all that is needed, for instance on another machine.  The JSON
        has a digest of each object, so that its bytes tell of any change.
        """
        contents = {str(o.relative_to(path.parent)): o.read_bytes() for o in self.objects}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        write_file(archive_path(path), _archive(contents))
        write_file(path, to_json(_Record(digests, replace(self, objects=()))))

    @classmethod
    def read(cls, path: Path) -> Extracted:
        """Read what `write` wrote.

        :raises KlpError: when it is missing or damaged.
        """
        record = read_output(path, partial(from_json, _Record))
        return replace(record.extracted, objects=tuple(path.parent / n for n in record.digests))

    @classmethod
    def restore(cls, path: Path) -> Extracted:
        """Read what `write` wrote, with the objects from the archive.

        :raises KlpError: when the archive does not hold them, with the digests that were written.
        """
        archive = archive_path(path)
        record = read_output(path, partial(from_json, _Record))
        try:
            with tarfile.open(archive) as file:
                contents = {
                    _inside(path.parent, name): _member(file, name, digest)
                    for name, digest in record.digests.items()
                }
        except (OSError, tarfile.TarError, KeyError, ValueError) as error:
            hint = f"Delete {path} and build again."
            raise KlpError(f"cannot be read: {error}", where=str(archive), hint=hint) from error
        for place, data in contents.items():
            write_file(place, data)
        return cls.read(path)


@dataclass(frozen=True)
class _Record:
    """Format of the record.

    :ivar digests: SHA-256 of each object, by its path relative to the record.
    :ivar extracted: without its objects.
    """

    digests: Mapping[str, str]
    extracted: Extracted


#: The empty record of a livepatch of C files.
NOTHING = Extracted((), (), (), ())


def described(livepatch: Livepatch, record: Path) -> Livepatch:
    """Add to a livepatch the functions that were found in its patches.

    :raises KlpError: for an object that the patches do not change, and that has no callbacks, and
        for functions that a patch changes and C files replace.
    """
    extracted = Extracted.read(record)
    found = [_by_patches(patched, extracted.fixes) for patched in extracted.functions]
    changed = [patched.name for patched in found]
    for patched in livepatch.objects:
        if patched.name not in changed and not patched.called and not patched.functions:
            raise KlpError(
                f"object {patched.name!r} is not changed by the patches",
                where=patched.where,
                hint=f"Changed: {', '.join(changed)}.",
            )
    return replace(livepatch, sources=(), objects=merged_objects((*found, *livepatch.objects)))


def _by_patches(patched: PatchedObject, fixes: Sequence[Fix]) -> PatchedObject:
    """Let the functions of an object name the patches that change them."""
    functions = []
    for function in patched.functions:
        wanted = f"{patched.name}:{function.old}"
        patches = ", ".join(fix.patch for fix in fixes if wanted in fix.functions)
        functions.append(replace(function, where=patches or function.where))
    return replace(patched, functions=tuple(functions))


def archive_path(record: Path) -> Path:
    """Name the archive with the objects of a record."""
    return record.with_suffix(".tar")


def _inside(directory: Path, name: str) -> Path:
    """Resolve a file below a directory, whatever its name and symbolic links say."""
    place = directory / name
    if not place.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{name} is outside of {directory}")
    return place


def _member(archive: tarfile.TarFile, name: str, digest: str) -> bytes:
    """Read the bytes of an object in an archive, if they are those that were written."""
    file = archive.extractfile(name)
    data = file.read() if file else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{name} is not what was written")
    return data


def _archive(contents: Mapping[str, bytes]) -> bytes:
    """Write a tar file without owners and times, so that the same objects give the same bytes."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return output.getvalue()
