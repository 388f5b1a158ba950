"""Compare a module with the provenance file beside it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klpbuild.errors import KlpError
from klpbuild.files.given import read_given_file
from klpbuild.report.contents import Contents
from klpbuild.report.file import ModuleFile
from klpbuild.report.inputs import Input, InputKind, inputs_digest
from klpbuild.report.names import INPUTS_TAG, PROVENANCE, VERSION_TAG
from klpbuild.report.provenance import PREDICATE, SCHEMA_VERSION, STATEMENT

#: More than a livepatch of hundreds of patches needs.
_SIZE_MAX = 1 << 26


@dataclass(frozen=True)
class Statement:
    """The fields of a provenance file that are compared or shown; the rest is in `predicate`.

    :ivar modules: digest of each module that it is about.
    :ivar klpbuild: the version of klpbuild that made it.
    :ivar inputs: in their order.
    :ivar digest: what it says is their digest.
    """

    path: Path
    modules: tuple[str, ...]
    klpbuild: str
    inputs: tuple[Input, ...]
    digest: str
    predicate: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Result of comparing a module with its provenance.

    :ivar file_matches: whether the provenance is about these very bytes.
    :ivar inputs_match: whether its inputs have the digest that the module carries; None
        when the module carries none.
    """

    statement: Statement
    file_matches: bool
    inputs_match: bool | None

    @property
    def matches(self) -> bool:
        """Whether nothing contradicts it."""
        return self.file_matches and self.inputs_match is not False


def provenance_beside(file: ModuleFile) -> Path | None:
    """Find the provenance file of a module; None when there is none.

    A build keeps signed and compressed modules in ``finished/``, a directory below.
    """
    directory = file.path.absolute().parent
    known = (directory, directory.parent) if directory.name == "finished" else (directory,)
    paths = (
        file.path.parent / os.path.relpath(d, directory) / (file.stem + PROVENANCE) for d in known
    )
    return next((path for path in paths if path.is_file()), None)


def compare(path: Path, file: ModuleFile, contents: Contents) -> Comparison:
    """Compare a module with a provenance file.

    :raises KlpError: when that cannot be read, or is none of klpbuild's.
    """
    statement = read_statement(path)
    match = None
    if INPUTS_TAG in contents.information:
        digest = inputs_digest(statement.inputs)
        match = contents.says(INPUTS_TAG) == statement.digest == digest
        match = match and contents.says(VERSION_TAG) == statement.klpbuild
    return Comparison(statement, file.sha256 in statement.modules, match)


def read_statement(path: Path) -> Statement:
    """Read a provenance file.

    :raises KlpError: when it cannot be read, or is none of klpbuild's.
    """
    try:
        document = json.loads(read_given_file(path, _SIZE_MAX))
    except (ValueError, RecursionError) as error:
        raise KlpError("is not JSON", where=str(path), why=str(error)) from error
    try:
        return _statement(path, document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise KlpError(
            "is not a provenance file of klpbuild",
            where=str(path),
            why=f"It is an in-toto statement with the predicate {PREDICATE}:{SCHEMA_VERSION}.",
            hint="Build the module again to get one.",
        ) from error


def _statement(path: Path, document: dict[str, Any]) -> Statement:
    kind, _, version = str(document["predicateType"]).rpartition(":")
    if document["_type"] != STATEMENT or kind != PREDICATE:
        raise ValueError
    if int(version) > SCHEMA_VERSION:
        raise KlpError(
            f"has schema version {version}",
            where=str(path),
            why=f"This klpbuild reads up to {SCHEMA_VERSION}.",
            hint="Use the klpbuild that made it, or a newer one.",
        )
    predicate = document["predicate"]
    said = predicate["inputs"]
    return Statement(
        path,
        tuple(str(subject["digest"]["sha256"]) for subject in document["subject"]),
        str(predicate["klpbuild"]),
        tuple(
            Input(InputKind(entry["kind"]), str(entry["name"]), str(entry["sha256"]))
            for entry in said["files"]
        ),
        str(said["sha256"]),
        predicate,
    )
