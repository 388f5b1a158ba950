"""Write a function without a body, for a kernel whose source is not at hand."""

from __future__ import annotations

import re

from klpbuild.errors import KlpError
from klpbuild.excerpt.btf import head as head_of
from klpbuild.kernel.debug import type_information
from klpbuild.kernel.tree import Kernel

_TAGGED = re.compile(r"\b(?:struct|union) \w+")


def skeleton(kernel: Kernel, owner: str, function: str, new: str) -> str:
    """Write a C file with the function's head, if the kernel's type information has it.

    It compiles, with a warning that it does nothing yet; without the head it does not, for
    a function with wrong arguments would be worse than none.

    :param owner: vmlinux or a module.
    :param new: the function's name in the livepatch.
    """
    lines = [
        "// SPDX-License-Identifier: GPL-2.0-or-later",
        f"/* Replaces {function} of {owner} in Linux {kernel.release}. */",
    ]
    try:
        types = type_information(kernel, owner)
    except KlpError:
        types = None
    head = head_of(types, function, new) if types else None
    if head is None:
        text = f"TODO: write {new}, with the arguments that {function} has in the source"
        return "\n".join([*lines, f'#error "{text}"']) + "\n"
    head = head.replace("struct __va_list_tag *", "va_list ")
    tags = sorted(set(_TAGGED.findall(head)))
    result = [] if head.startswith(f"void {new}(") else ["\treturn 0;"]
    if re.match(r"(?:const )?struct \w+ \w", head):  # a structure itself, not a pointer
        result = []
    lines += [
        "#include <linux/kernel.h>",
        "#include <linux/module.h>",
        "",
        *(f"{tag};" for tag in tags),
        *([""] if tags else []),
    ]
    lines += [head, "{", f'#warning "TODO: {new} does nothing yet"', *result, "}"]
    return "\n".join(lines) + "\n"
