"""Find the parts of a kernel from what the user wrote after ``kernel=``."""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from klpbuild.distro.packaging import packaging_of
from klpbuild.distro.tools import KernelCompiler
from klpbuild.errors import KlpError, Problems, did_you_mean
from klpbuild.files.records import sealed
from klpbuild.kernel.added import AddedKernel, added_kernel, added_kernels
from klpbuild.kernel.cache import CachedKernel, cached_kernel, cached_kernels, tree_directory
from klpbuild.kernel.config import RANDSTRUCT_SEED, Config, config_of
from klpbuild.kernel.headers import usable_build_tree
from klpbuild.kernel.installed import Installed, is_stub
from klpbuild.kernel.kbuild import build_fixtures
from klpbuild.kernel.modules import built_modules, shipped_modules
from klpbuild.kernel.tree import FILTER_FUNCTIONS, KALLSYMS, Kernel, Toolchain

FIXTURES = "fixtures"

#: Where the headers of installed kernels are found by their release.
MODULES = Path("/lib/modules")

_UTS_RELEASE = Path("include/generated/utsrelease.h")
_VERSION = Path("include/generated/uapi/linux/version.h")
_BOOT_IMAGES = ("bzImage", "Image", "Image.gz", "vmlinuz.efi", "zImage")


def locate(
    text: str,
    *,
    fixtures: Path | None = None,
    output: Path | None = None,
    learned: Path | None = None,
) -> Kernel:
    """Find the kernel that the user names.

    :param text: ``fixtures``, the release of a fetched kernel or of one whose headers are
        installed, the name of an added one, or the path of a headers tree
        (``/lib/modules/RELEASE/build``) or of a full build tree.
    :param fixtures: the source of the miniature kernel, for ``fixtures``.
    :param output: where that one is built, for ``fixtures``.
    :param learned: where to keep what is learned of a kernel that was not fetched, or whose
        place in the cache cannot be written; None for the cache.
    :raises KlpError: when there is no such kernel, it is not prepared for modules,
        or it cannot load livepatches.
    """
    if text == FIXTURES and fixtures is not None and output is not None:
        build_fixtures(fixtures, output)
        return _from_build_tree(output, learned, name=FIXTURES)
    if "/" not in text:
        if found := cached_kernel(text) or added_kernel(text):
            place = Installed(found.root, found.release)
            return _from_headers(found.root / found.headers, place, learned, found)
        installed = MODULES / text / "build"
        if text and _is_there(installed):
            return _from_path(installed, learned)
    path = Path(text).expanduser().absolute()
    if text and _is_there(path):
        return _from_path(path, learned)
    raise _unknown(text)


def _is_there(path: Path) -> bool:
    """Tell whether it is a directory, or a link that may mean one in another root."""
    try:
        return path.is_dir() or path.is_symlink()
    except OSError:  # no file system takes such a name
        return False


def _unknown(text: str) -> KlpError:
    if text == FIXTURES:
        return KlpError(
            f"kernel {text!r} cannot be named here",
            why="The miniature kernel cannot boot; scons and others build it where they need it.",
            hint="When it is built, its build tree can be named: build/fixtures/kernel.",
        )
    fetched = [kernel.release for kernel in cached_kernels()]
    installed = [path.parent.name for path in sorted(MODULES.glob("*/build"))]
    known = "Fetched kernels: " + (", ".join(fetched) or "none") + "."
    if added := [kernel.name for kernel in added_kernels()]:
        known += f"  Added: {', '.join(added)}."
    if "/" in text:
        return KlpError("there is no such directory", where=text, why=known)
    near = did_you_mean(text, [*fetched, *installed, FIXTURES], 0.8)
    command = f"klpbuild kernel fetch {'RELEASE' if near else text}"
    return KlpError(
        f"kernel {text!r} is not known",
        why=f"{near}\n{known}".lstrip(),
        hint=f"Run `{command}`{' for another one' if near else ''}, or name the path of a headers "
        "or build tree.",
    )


def _from_path(path: Path, learned: Path | None) -> Kernel:
    if path.parent.name == "modules" and not (path / "Makefile").exists():
        path = path / "build"
    tree, root = _follow(path)
    if not (tree / "Makefile").is_file():
        raise KlpError(
            "is not a kernel's headers or build tree",
            where=str(path),
            hint="Name the directory that `make -C` takes to build modules for the kernel.",
        )
    # kernel-devel of Fedora and its kin has a System.map beside the headers, too.
    built = (tree / "System.map").exists() and (tree / "modules.order").exists()
    if root is None or built:
        return _from_build_tree(tree, learned)
    installed = Installed(root, _release(tree))
    # Arch has vmlinux in the headers of an installed kernel.
    if _has_code(tree / "vmlinux") and not (installed.modules / "kernel").is_dir():
        return _from_build_tree(tree, learned)
    return _from_headers(tree, installed, learned)


def _follow(path: Path) -> tuple[Path, Path | None]:
    """Resolve a path to the real tree, and find the root of the system that has it, if any.

    In an unpacked root, ``lib/modules/RELEASE/build`` is an absolute link that
    means the place inside of the root.
    """
    if path.parents[1].name == "modules" and path.parents[2].name == "lib":
        root = path.parents[3]
        root = root.parent if root.name == "usr" else root
        target = path.readlink() if path.is_symlink() else path
        inside = root / target.relative_to("/") if target.is_absolute() else path
        return (inside if inside.is_dir() else path).resolve(), root.resolve()
    tree = path.resolve()
    for directory in tree.parents:
        if directory.name == "src" and directory.parent.name == "usr":
            return tree, directory.parents[1]
    return tree, None


#: The names of a vmlinux's sections, in bytes, are less by far.
_NAMES_MAX = 1 << 20


def _has_code(vmlinux: Path) -> bool:
    """Tell a real vmlinux from the file of type information in Debian's 6.12 headers."""
    if not vmlinux.is_file():
        return False
    with suppress(OSError, OverflowError, struct.error), vmlinux.open("rb") as file:
        head = file.read(64)  # Elf64_Ehdr: where the table of sections is, and which names them
        order = "<" if head[5:6] == b"\1" else ">"
        place, size, count, names = struct.unpack(f"{order}40xQ10xHHH", head)
        file.seek(place)
        table = file.read(size * count)  # of Elf64_Shdr
        place, size = struct.unpack_from(f"{order}24xQQ", table, names * 64)
        file.seek(place)
        texts = file.read(min(size, _NAMES_MAX))
        starts = [start for start, *_ in struct.iter_unpack(f"{order}I60x", table)]
        if any(texts[start : start + 6] == b".text\0" for start in starts):
            return True
    from klpbuild.elf.reader import ElfFile  # numpy takes longer than all the rest here

    return any(section.name == ".text" for section in ElfFile.read(vmlinux).sections)


def _release(tree: Path) -> str:
    """Read UTS_RELEASE; Debian's include/config/kernel.release has the upstream version."""
    path = tree / _UTS_RELEASE
    match = re.search(r'#define UTS_RELEASE "([^"]+)"', _text(path))
    if not match:
        raise KlpError(
            f"is not prepared for building modules: {_UTS_RELEASE} is missing",
            where=str(tree),
            hint="Run `make modules_prepare` in it, or better build the kernel.",
        )
    # It stands in names of directories, and uname(2) has 64 bytes for it.
    if not re.fullmatch(r"\w[\w.+~@=,-]{,63}", match[1], re.ASCII):
        raise KlpError(
            f"release {match[1]!r} cannot be a kernel's",
            where=str(path),
            why="It has letters, digits and . _ + ~ @ = , - only, 64 at most.",
        )
    return match[1]


def _version(tree: Path) -> tuple[int, int, int]:
    numbers = dict(re.findall(r"#define LINUX_VERSION_(\w+) (\d+)", _text(tree / _VERSION)))
    if "SUBLEVEL" in numbers:
        return int(numbers["MAJOR"]), int(numbers["PATCHLEVEL"]), int(numbers["SUBLEVEL"])
    if "CODE" in numbers:
        code = int(numbers["CODE"])
        return code >> 16, code >> 8 & 255, code & 255
    numbers = dict(re.findall(r"^(\w+) = (\d+)$", _text(tree / "Makefile"), re.MULTILINE))
    if {"VERSION", "PATCHLEVEL", "SUBLEVEL"} <= set(numbers):
        return int(numbers["VERSION"]), int(numbers["PATCHLEVEL"]), int(numbers["SUBLEVEL"])
    raise KlpError(
        f"is not prepared for building modules: {_VERSION} is missing",
        where=str(tree),
        hint="Run `make modules_prepare` in it, or better build the kernel.",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _checked(
    tree: Path, installed: Installed | None = None
) -> tuple[str, tuple[int, int, int], Config]:
    """Read what every kernel must have; all that is missing is told together."""
    problems = Problems()
    with problems.collect():
        release = _release(tree)
    with problems.collect():
        version = _version(tree)
    if not (tree / "Module.symvers").is_file():
        problems.add(
            "has no Module.symvers",
            where=str(tree),
            why="It names the exported symbols and is written when the kernel is built.",
            hint="Build the kernel, or name its distribution's headers tree.",
        )
    with problems.collect():
        config = config_of(tree, installed)
        config.check_livepatch()
        _check_seed(tree, config)
    problems.check()
    return release, version, config


def _check_seed(tree: Path, config: Config) -> None:
    """Refuse a kernel with structures laid out at random whose seed is not at hand."""
    at_random = config.enabled("RANDSTRUCT") or config.enabled("GCC_PLUGIN_RANDSTRUCT")
    if at_random and not (tree / RANDSTRUCT_SEED).is_file():
        raise KlpError(
            "CONFIG_RANDSTRUCT is set, and its seed is not here",
            where=str(tree / RANDSTRUCT_SEED),
            why="Structures of the running kernel are laid out by it; without it a livepatch would "
            "be compiled with other layouts.",
            hint="Name the build tree of the kernel: distributions do not ship the seed.",
        )


def _from_headers(
    headers: Path,
    installed: Installed,
    under: Path | None,
    cached: CachedKernel | AddedKernel | None = None,
) -> Kernel:
    release, version, config = _checked(headers, installed)
    if cached and (under is None or os.access(cached.path, os.W_OK)):
        learned, shadow = cached.path / "learned", cached.path / "build"
    else:
        identity = [config.path, headers / "Module.symvers", headers / _UTS_RELEASE]
        order = installed.modules / "modules.order"
        learned = tree_directory(release, *identity, order, under=under)
        shadow = learned / "build"
    source = cached.path / "source" if cached else None
    fetched = cached if isinstance(cached, CachedKernel) else None
    added = cached if isinstance(cached, AddedKernel) else None
    own_vmlinux = headers / "vmlinux"
    place = headers.relative_to(installed.root) if headers.is_relative_to(installed.root) else None
    return Kernel(
        name=added.name if added else release,
        release=release,
        version=version,
        build=usable_build_tree(headers, installed.root, shadow),
        arch=config.architecture(),
        config=config.path,
        module_symvers=headers / "Module.symvers",
        modules=shipped_modules(installed.modules, learned / "modules"),
        vmlinux=installed.vmlinux() or (own_vmlinux if _has_code(own_vmlinux) else None),
        system_map=installed.system_map() or _real_map(headers / "System.map"),
        kallsyms=sealed(learned / KALLSYMS),
        filter_functions=sealed(learned / FILTER_FUNCTIONS),
        image=installed.image(),
        source=source.resolve() if source and source.is_dir() else None,
        cache=learned,
        debug_modules=installed.debug_modules(),
        package_version=fetched.version if fetched else "",
        toolchain=_fetched_tools(fetched, config) if fetched and fetched.tools else Toolchain(),
        packaging=packaging_of(place or headers, release),
        folder=added.folder if added else "",
    )


def _fetched_tools(cached: CachedKernel, config: Config) -> Toolchain:
    """Name the compiler and binutils that were fetched with a kernel."""
    assert cached.tools is not None
    compiler = KernelCompiler.parse(config.value("CC_VERSION_TEXT"))
    prefix = str(cached.tools / "usr" / "bin" / f"{config.architecture().name}-linux-gnu-")
    return Toolchain(cross_compile=prefix, cc=f"{prefix}{compiler.package}" if compiler else "")


def _from_build_tree(tree: Path, under: Path | None, name: str = "") -> Kernel:
    release, version, config = _checked(tree)
    arch = config.architecture()
    vmlinux, system_map = tree / "vmlinux", tree / "System.map"
    identity = [config.path, tree / "Module.symvers", tree / _UTS_RELEASE, vmlinux]
    learned = tree_directory(release, *identity, under=under)
    boot = tree / "arch" / arch.kernel_name / "boot"
    images = [boot / image for image in _BOOT_IMAGES if (boot / image).is_file()]
    sources = [path for path in (tree, tree / "source") if (path / "init" / "main.c").is_file()]
    return Kernel(
        # Two trees of one release must not share a directory of results.
        name=name or f"{release}-{sha256(bytes(tree)).hexdigest()[:8]}",
        release=release,
        version=version,
        build=tree,
        arch=arch,
        config=config.path,
        module_symvers=tree / "Module.symvers",
        modules=built_modules(tree),
        vmlinux=vmlinux if _has_code(vmlinux) else None,
        system_map=_if_file(system_map),
        kallsyms=sealed(learned / KALLSYMS),
        filter_functions=sealed(learned / FILTER_FUNCTIONS),
        image=images[0] if images else None,
        source=sources[0].resolve() if sources else None,
        cache=learned,
    )


def _real_map(path: Path) -> Path | None:
    return path if path.is_file() and not is_stub(path) else None


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None
