"""The sample livepatches of kernel-fixtures, built by scons for a real kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klpbuild.kernel.tree import Kernel

ROOT = Path(__file__).parent.parent
SAMPLES = ("meminfo", "meminfo-2", "cmdline", "homonym", "homonyms", "button")
#: Livepatches for real kernels alone.
MORE = ROOT / "tests" / "campaign" / "livepatches"


@dataclass(frozen=True)
class Built:
    """A kernel and the samples built for it."""

    kernel: Kernel
    directory: Path

    def module(self, name: str) -> Path:
        return self.directory / f"livepatch-{name}.ko"


def build(
    kernel: Kernel, directory: Path, names: Sequence[str] = SAMPLES, more: Path = MORE
) -> Built:
    """Build in a checkout of its own: two runs of SCons must not share one.

    :param more: a directory of livepatches beside those of kernel-fixtures.
    """
    for name in ("klpbuild", "kernel-fixtures", "site_scons"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    shutil.copytree(more, directory / "kernel-fixtures" / "livepatches", dirs_exist_ok=True)
    shutil.copy(ROOT / "SConstruct", directory)
    command = [
        sys.executable,
        "-m",
        "SCons",
        "-Q",
        f"kernel={kernel.build if (kernel.build / 'System.map').is_file() else kernel.name}",
    ]
    done = subprocess.run(
        [*command, f"livepatch={','.join(names)}"],
        cwd=directory,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(kernel, directory / "build" / kernel.name)
