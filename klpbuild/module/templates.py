"""Load Jinja templates, each compiled once and kept in the cache."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from klpbuild.errors import KlpError
from klpbuild.files import read_record, write_file
from klpbuild.kernel.cache import cache_directory


def environment(directory: Path, *, html: bool = False) -> jinja2.Environment:
    """Open the templates of a directory; what they name must be given.

    :param html: whether they are HTML: values are escaped, and lines of statements leave no space.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=html,
        keep_trailing_newline=not html,
        undefined=jinja2.StrictUndefined,
        bytecode_cache=_Kept(html),
    )


class _Kept(jinja2.BytecodeCache):
    """Compiled templates: compiling that of the report page takes a tenth of a second.

    A digest comes first: Python trusts compiled code, which a damaged disk must not make.
    """

    def __init__(self, html: bool) -> None:
        self._key = f"{jinja2.__version__} {sys.implementation.cache_tag} {html}"

    def load_bytecode(self, bucket: Bucket) -> None:
        read_record(self._path(bucket), lambda data: bucket.bytecode_from_string(_whole(data)))

    def dump_bytecode(self, bucket: Bucket) -> None:
        data = bucket.bytecode_to_string()
        with suppress(KlpError):  # a cache that cannot be written costs time only
            write_file(self._path(bucket), hashlib.sha256(data).digest() + data)

    def _path(self, bucket: Bucket) -> Path:
        digest = hashlib.sha256(f"{self._key} {bucket.key}".encode()).hexdigest()[:32]
        return cache_directory() / "templates" / digest


def _whole(data: bytes) -> bytes:
    """Take the digest off.

    :raises ValueError: when the data is not what it says.
    """
    digest, code = data[:32], data[32:]
    if hashlib.sha256(code).digest() != digest:
        raise ValueError("its SHA-256 is another one")
    return code
