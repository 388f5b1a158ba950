"""Check finished modules once more, for the target ``check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from klpbuild.check.formats import as_text
from klpbuild.check.module import check_module
from klpbuild.check.rule import Severity
from klpbuild.errors import Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.package.signing import Signer, verify


def check_finished(
    kernel: Kernel, modules: Sequence[Path], symbols: Path, signer: Signer | None = None
) -> int:
    """Check modules and show what is found.

    :param modules: not compressed.
    :param signer: whose signature they must have; None: they need none.
    :returns: 0 when the kernel would load them all, else 1.
    :raises KlpError: when a signature is not the signer's.
    """
    reports = [check_module(path, kernel, symbols) for path in modules]
    print(as_text(reports), end="")
    problems = Problems()
    if signer is not None:
        for path in modules:
            with problems.collect():
                verify(path.read_bytes(), signer.certificate, str(path))
                print(f"{path}: signed by {signer.subject}, {signer.digest}")
    problems.check()
    return 1 if any(report.at_least(Severity.ERROR) for report in reports) else 0
