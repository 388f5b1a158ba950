"""Kernels to measure with: a fetched one, the miniature one, and ones of any size."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from klpbuild.elf.constants import EM, SHF, SHT, STB, STT
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import cache_directory, kernel_directory
from klpbuild.kernel.locate import locate
from klpbuild.symbols.write import SymbolSources
from tests.benchmarks.measure import UnavailableError

ROOT = Path(__file__).parent.parent.parent
#: What is measured unless another one is named.
RELEASE = "6.1.0-47-cloud-amd64"

#: Functions of each made module; some are called as those of other modules are.
FUNCTIONS = 20
_NUMBER = b"00000000"


def whole_kernel(release: str) -> SymbolSources:
    """vmlinux and all modules of a debug package.

    :param release: of a fetched kernel.
    :raises UnavailableError: when it was not fetched.
    """
    try:
        kernel = locate(release)
    except KlpError as error:
        raise UnavailableError(str(error)) from error
    if kernel.vmlinux is None:
        raise UnavailableError(f"the debug symbols of {release} are not fetched")
    directory = kernel.vmlinux.parent.parent / "lib" / "modules" / release
    return SymbolSources(
        kernel.version,
        tuple(sorted(directory.rglob("*.ko"))),
        kernel.vmlinux,
        module_symvers=kernel.module_symvers,
    )


def miniature(directory: Path) -> Path:
    """Build the miniature kernel; its tree of outputs."""
    output = directory / "kernel"
    command = ["make", "-C", str(ROOT / "kernel-fixtures"), f"O={output}", "-j2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "KBUILD"))}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return output


def module_with(*symbols: str) -> bytes:
    """A module with these functions."""
    elf = ElfObject(EM.X86_64)
    flags = SHF.ALLOC | SHF.EXECINSTR
    text = elf.add_section(
        WritableSection(".text", SHT.PROGBITS, flags, data=bytes(16 * len(symbols)))
    )
    for number, symbol in enumerate(symbols):
        elf.add_symbol(
            symbol, bind=STB.GLOBAL, type=STT.FUNC, st_shndx=text, st_value=16 * number, st_size=16
        )
    return elf.to_bytes()


def write_modules(directory: Path, count: int) -> list[Path]:
    """Write small modules that differ in a number, as fast as files can be written."""
    directory.mkdir(parents=True)
    number = _NUMBER.decode()
    template = module_with(
        *(f"function_{n}_of_{number}" for n in range(FUNCTIONS // 2)),
        *(f"shared_{n}" for n in range(FUNCTIONS - FUNCTIONS // 2)),
    )
    paths = []
    for n in range(count):
        path = directory / f"made_{n:08}.ko"
        path.write_bytes(template.replace(_NUMBER, b"%08d" % n))
        paths.append(path)
    return paths


def checkout(directory: Path) -> Path:
    """A copy of what SCons runs: its outputs are not the user's."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("klpbuild", "kernel-fixtures", "site_scons"):
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    shutil.copy(ROOT / "SConstruct", directory)
    return directory


def own_cache(directory: Path, release: str) -> tuple[Path, Path]:
    """A cache with the fetched kernel in it, of links, so that a module can be changed.

    :returns: the cache, and the directory of the kernel's modules.
    :raises UnavailableError: when the kernel was not fetched.
    """
    fetched = kernel_directory(release)
    modules = Path("root", "lib", "modules", release, "kernel")
    if not (fetched / modules).is_dir():
        raise UnavailableError(f"{release} is not fetched")
    own = directory / fetched.relative_to(cache_directory())
    for depth in range(len(modules.parts)):
        place = Path(*modules.parts[:depth])
        (own / place).mkdir(parents=True)
        for entry in (fetched / place).iterdir():
            if entry.name != modules.parts[depth]:
                (own / place / entry.name).symlink_to(entry)
    shutil.copytree(fetched / modules, own / modules, copy_function=os.symlink)
    return directory, own / modules
