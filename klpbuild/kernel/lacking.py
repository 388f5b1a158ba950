"""Explain how a part that a kernel lacks is brought, and what works without it."""

from __future__ import annotations

from klpbuild.distro.parts import Part
from klpbuild.kernel.tree import Kernel

_FETCH = {Part.IMAGE: "", Part.DEBUG: " --debug-symbols", Part.SOURCE: " --source"}
_DEBUG = "CONFIG_DEBUG_INFO=y"
_NAMED = {
    Part.IMAGE: "--image",
    Part.DEBUG: "--vmlinux (scons: VMLINUX=)",
    Part.SOURCE: "--source (scons: KSRC=)",
}

#: Restrictions of a kernel without a part.
WITHOUT = {
    Part.IMAGE: "`klpbuild boot` does not work; all else does",
    Part.DEBUG: "patches are not built; hand-written livepatches are",
    Part.SOURCE: "patches are not built; hand-written livepatches are",
}


def lacking_parts(kernel: Kernel) -> tuple[Part, ...]:
    """List the parts that are not at hand, of image, debug symbols and source."""
    there = {
        Part.IMAGE: kernel.image is not None,
        Part.DEBUG: kernel.vmlinux is not None,
        Part.SOURCE: kernel.source is not None,
    }
    return tuple(part for part, is_there in there.items() if not is_there)


def how_to_get(kernel: Kernel, *parts: Part) -> str:
    """Explain how to get parts that are not at hand: image, debug symbols, source.

    :returns: one line for each way, for a hint.
    """
    if kernel.package_version:
        options = "".join(_FETCH[part] for part in parts)
        return f"Run `klpbuild kernel fetch {kernel.release}{options}`."
    named = "name it with " + ", ".join(_NAMED[part] for part in parts)
    if kernel.packaging is None:
        built = {Part.IMAGE: ", or build it", Part.DEBUG: f", or build the kernel with {_DEBUG}"}
        return f"{named[0].upper()}{named[1:]}{''.join(built.get(part, '') for part in parts)}."
    packages = [kernel.packaging.package(part, kernel.release) for part in parts]
    wanted = " and ".join(package for package in dict.fromkeys(packages) if package)
    if not wanted:
        return f"No package of files has it: unpack the source package and {named}."
    if kernel.folder:
        again = f"run `klpbuild kernel add {kernel.name} {kernel.folder}` again"
        return f"Put {wanted} into {kernel.folder} and {again}."
    return f"Install {wanted}, or {named}."
