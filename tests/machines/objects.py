"""Small objects for other machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

#: What the kernels of each architecture are compiled with, as far as it is seen in the code.
FLAGS = {
    "s390x": ("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount", "-fPIC", "-march=z13"),
    "powerpc64le": ("-pg", "-mprofile-kernel", "-mcmodel=large", "-mabi=elfv2"),
    "aarch64": ("-fpatchable-function-entry=4,2", "-fno-pic", "-mbranch-protection=bti"),
}


def compile_for(arch: str, directory: Path, source: str, *flags: str) -> bytes:
    """Compile C for an architecture, or skip the test where its compiler is not installed."""
    compiler = f"{arch}-linux-gnu-gcc"
    if not shutil.which(compiler):
        pytest.skip(f"not on this machine: {compiler}")
    path = directory / f"{arch}.c"
    path.write_text(source)
    output = path.with_suffix(".o")
    words = (*FLAGS[arch], "-O2", "-ffreestanding", "-fno-asynchronous-unwind-tables", *flags)
    subprocess.run([compiler, *words, "-c", path, "-o", output], check=True)
    return output.read_bytes()
