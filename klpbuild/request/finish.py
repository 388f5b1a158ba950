"""Plan how the modules for a kernel are signed, compressed and installed."""

from __future__ import annotations

from klpbuild.errors import Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.package.compression import check_compression, configured_compression
from klpbuild.package.finish import Finish
from klpbuild.package.install import Place
from klpbuild.package.signing import find_signer
from klpbuild.request.variables import Variables


def plan(kernel: Kernel, variables: Variables) -> Finish:
    """Plan how modules are finished, before anything is built.

    :raises KlpError: with every reason why they could not be.
    """
    problems = Problems()
    signer = None
    compression = variables.compress or configured_compression(kernel)
    if variables.sign_key and variables.sign_cert:
        with problems.collect():
            signer = find_signer(
                kernel, variables.sign_key, variables.sign_cert, variables.sign_hash
            )
    with problems.collect():
        check_compression(compression)
    problems.check()
    place = Place(kernel.release, variables.prefix, variables.destdir)
    return Finish(signer, compression, place)
