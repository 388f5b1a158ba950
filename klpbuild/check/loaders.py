"""Check what only a model of an architecture's module loader can tell."""

from __future__ import annotations

from klpbuild.check.aarch64.loader import LOADER as AARCH64
from klpbuild.check.loader import Loader
from klpbuild.check.powerpc64le.loader import LOADER as POWERPC64LE
from klpbuild.check.s390x.loader import LOADER as S390X
from klpbuild.check.subject import Subject
from klpbuild.check.x86_64.check import check_x86_64
from klpbuild.elf.constants import EM

#: By ``e_machine``; x86-64 has checks of its own.
LOADERS: dict[int, Loader] = {EM.AARCH64: AARCH64, EM.PPC64: POWERPC64LE, EM.S390: S390X}


def check_loading(subject: Subject) -> None:
    """Check what the module loader does for its architecture."""
    loader = LOADERS.get(subject.elf.e_machine)
    if loader is not None:
        loader.check(subject)
    else:
        check_x86_64(subject)
