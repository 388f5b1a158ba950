"""Read the tags of ``.modinfo``."""

from __future__ import annotations

from klpbuild.elf.reader import ElfFile


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
