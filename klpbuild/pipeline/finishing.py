"""Sign and compress: the steps after a module is checked."""

from __future__ import annotations

from pathlib import Path

from klpbuild.package.compression import Compression
from klpbuild.package.finish import Finish
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.table import Said, Step


def finish_steps(build: Build, how: Finish) -> tuple[Step, ...]:
    """Make the steps that finish a checked module for installation: sign, then compress."""
    paths, signer = build.paths, how.signer
    place, module, steps = paths.directory / "finished", paths.module, []
    if signer is not None:
        signed = place / module.name

        def sign(said: Said) -> None:
            from klpbuild.pipeline.steps import sign_checked

            sign_checked(build.kernel, paths.module, paths.digest, paths.symbols, signer, signed)

        # Who has no key must not get a signature from elsewhere.
        inputs, after = (module, paths.digest), (paths.symbols,)
        counts = (signer.identity,)
        steps.append(Step("SIGN", (signed,), sign, inputs, counts, after, shared=False))
        module = signed
    if how.compression is not Compression.NONE:
        packed = place / f"{module.name}{how.compression.suffix}"

        def pack(said: Said, module: Path = module) -> None:
            from klpbuild.package.finish import compress_file

            compress_file(module, how.compression, packed)

        steps.append(Step("PACK", (packed,), pack, (module,), shared=False))
    return tuple(steps)
