"""List the inputs of a module, and compute the digest of them that the module carries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import klpbuild
from klpbuild.compiler.driver import HEADER, INCLUDE
from klpbuild.errors import reading
from klpbuild.files.records import from_json, read_output, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.accepting import ACCEPT_TAG
from klpbuild.kernel.tree import Kernel
from klpbuild.module.tables import c_string
from klpbuild.module.toml import TomlFile
from klpbuild.report.names import INPUTS_TAG, REFERENCE_TAG, VERSION_TAG


class InputKind(StrEnum):
    """Kind of an input."""

    SOURCE = "source"
    PATCH = "patch"
    HEADER = "header"
    DESCRIPTION = "description"
    CONFIGURATION = "kernel configuration"
    EXPORTS = "kernel exports"


@dataclass(frozen=True)
class Input:
    """A file that a module is compiled from.

    :ivar name: relative to the livepatch's directory; the kernel's files begin with
        ``kernel/``, klpbuild's with ``klpbuild/``.
    :ivar sha256: of its contents, in hexadecimal digits; of a description, of its `meaning`.
    """

    kind: InputKind
    name: str
    sha256: str


def read_inputs(
    kernel: Kernel,
    directory: Path,
    *,
    descriptions: Sequence[Path] = (),
    sources: Sequence[Path] = (),
    patches: Sequence[Path] = (),
    included: Iterable[Path] = (),
) -> tuple[Input, ...]:
    """List the inputs of a livepatch, in the order in which they are linked or applied.

    The compiler and the kernel's headers are no inputs: its configuration, exports and
    release stand for them.

    :param directory: of the livepatch.
    :param descriptions: its ``livepatch.toml``, and those of its parts.
    :param included: files that the sources include; those that are neither below the
        current directory nor klpbuild's own are left out.
    :raises KlpError: when one cannot be read.
    """
    found = [_input(InputKind.SOURCE, path, _relative(path, directory)) for path in sources]
    found += [_input(InputKind.PATCH, path, path.name) for path in patches]
    for description in descriptions:
        digest = hashlib.sha256(meaning(description).encode()).hexdigest()
        name = _relative(description, directory)
        found.append(Input(InputKind.DESCRIPTION, f"{name}#content", digest))
    known = {path.resolve() for path in sources}
    headers = {path.resolve() for path in included} - known - {HEADER.resolve()}
    here, trees = Path.cwd().resolve(), (kernel.build, kernel.build / "source", kernel.cache)
    own = [
        path
        for path in headers
        if path.is_relative_to(here)
        and not any(path.is_relative_to(tree.resolve()) for tree in (*trees, INCLUDE))
    ]
    found += sorted(
        (_input(InputKind.HEADER, path, _relative(path, directory)) for path in own),
        key=lambda header: header.name,
    )
    if sources:
        found.append(_input(InputKind.HEADER, HEADER, "klpbuild/livepatch.h"))
    found.append(_input(InputKind.CONFIGURATION, kernel.config, "kernel/.config"))
    found.append(_input(InputKind.EXPORTS, kernel.module_symvers, "kernel/Module.symvers"))
    return tuple(found)


def meaning(description: Path) -> str:
    """Read a ``livepatch.toml`` as JSON: comments and layout do not count.

    :raises KlpError: when it cannot be read.
    """
    with reading(description):
        table = TomlFile.read(description).table
    return json.dumps(table, sort_keys=True, default=str)


def _relative(path: Path, directory: Path) -> str:
    return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()


def _input(kind: InputKind, path: Path, name: str) -> Input:
    with reading(path):
        return Input(kind, name, hashlib.sha256(path.read_bytes()).hexdigest())


def inputs_digest(inputs: Iterable[Input]) -> str:
    """Compute the SHA-256 of the inputs as ``sha256sum`` lists them: digest, two blanks, name."""
    lines = "".join(f"{entry.sha256}  {entry.name}\n" for entry in inputs)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def modinfo_source(
    inputs: Iterable[Input], references: Iterable[str] = (), threads: Iterable[str] = ()
) -> str:
    """Write a C file that puts klpbuild's version and the digest of the inputs into ``.modinfo``.

    It is linked to every livepatch, also to one that brings its own tables: after the
    conversion nothing may rewrite the module.

    :param references: what the livepatch mends; it can be read from the module, too.
    :param threads: functions of kernel threads that its author accepts.
    """
    tags = [(VERSION_TAG, klpbuild.__version__), (INPUTS_TAG, inputs_digest(inputs))]
    tags += [(REFERENCE_TAG, reference) for reference in references]
    tags += [(ACCEPT_TAG, function) for function in threads]
    lines = [f"MODULE_INFO({tag}, {c_string(value)});\n" for tag, value in tags]
    return (
        "// SPDX-License-Identifier: GPL-2.0-or-later\n"
        "/* Made by klpbuild: what this livepatch is made from.  Do not edit. */\n"
        "#include <linux/module.h>\n\n"
    ) + "".join(lines)


def write_inputs(path: Path, inputs: Iterable[Input]) -> None:
    """Write the list of inputs, in their order."""
    write_file(path, to_json(tuple(inputs)))


def read_inputs_file(path: Path) -> tuple[Input, ...]:
    """Read what `write_inputs` wrote.

    :raises KlpError: when it is missing or damaged.
    """
    return read_output(path, partial(from_json, tuple[Input, ...]))
