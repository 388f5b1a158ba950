"""Read the tags of ``.modinfo``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from klpbuild.elf.reader import ElfFile
from klpbuild.names import object_name


def modinfo(elf: ElfFile) -> dict[str, list[str]]:
    """Parse a module's ``.modinfo``: each tag with its values in order."""
    section = elf.section(".modinfo")
    tags: dict[str, list[str]] = {}
    if section is not None:
        for text in bytes(elf.contents(section)).split(b"\0"):
            tag, equals, value = text.decode(errors="replace").partition("=")
            if equals:
                tags.setdefault(tag, []).append(value)
    return tags


def depends(tags: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """List the modules that a module needs, by its tag ``depends``, which modpost writes."""
    names = ",".join(tags.get("depends", ())).split(",")
    return tuple(object_name(name) for name in names if name)
