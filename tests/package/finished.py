"""A module signed and compressed by the functions that the steps of a build call."""

from __future__ import annotations

from pathlib import Path

from klpbuild.package.compression import Compression
from klpbuild.package.finish import Finish, compress_file
from klpbuild.package.signing import sign


def finish(module: Path, how: Finish, directory: Path) -> Path:
    """Sign and compress a module as planned.

    :param module: the converted and checked ``.ko``.
    :param directory: gets the signed module and, when it is compressed, that one beside it.
    :returns: the file to install; `module` itself when there is nothing to do.
    :raises KlpError: see `klpbuild.package.signing.sign`; or when nothing can be written.
    """
    if how.signer is not None:
        signed = directory / module.name
        sign(module, how.signer, signed)
        module = signed
    if how.compression is Compression.NONE:
        return module
    output = directory / f"{module.name}{how.compression.suffix}"
    compress_file(module, how.compression, output)
    return output
