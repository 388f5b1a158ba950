"""Load Jinja templates, each compiled once and kept beside itself."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from klpbuild.errors import KlpError
from klpbuild.files.records import read_record
from klpbuild.files.whole import write_file


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

    They are where Python keeps its own compiled code, if it may.  A digest comes first: Python
    trusts compiled code, which a damaged disk must not make.
    """

    def __init__(self, html: bool) -> None:
        self._suffix = f".{'html' if html else 'text'}-{jinja2.__version__}"

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return filename or name

    def load_bytecode(self, bucket: Bucket) -> None:
        read_record(self._path(bucket), lambda data: bucket.bytecode_from_string(_whole(data)))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if sys.dont_write_bytecode:
            return
        data = bucket.bytecode_to_string()
        with suppress(KlpError):  # what cannot be kept costs time only
            write_file(self._path(bucket), hashlib.sha256(data).digest() + data)

    def _path(self, bucket: Bucket) -> Path:
        return Path(cache_from_source(bucket.key)).with_suffix(self._suffix)


def _whole(data: bytes) -> bytes:
    """Take the digest off.

    :raises ValueError: when the data is not what it says.
    """
    digest, code = data[:32], data[32:]
    if hashlib.sha256(code).digest() != digest:
        raise ValueError("its SHA-256 is another one")
    return code
