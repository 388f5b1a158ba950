"""Generate the C file with the tables that name what a livepatch replaces."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from klpbuild.compiler.flags import CompileCommand, compile_command
from klpbuild.elf.constants import EM
from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.module.listed import entering, leaving
from klpbuild.module.livepatch import STAYS_TAG, Livepatch, PatchedObject, check_object
from klpbuild.module.states import numbered
from klpbuild.names import VMLINUX

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True)
class LivepatchApi:
    """Features of a kernel's livepatch core.

    :ivar register: ``klp_register_patch`` must precede ``klp_enable_patch``;
        v4.0 to v5.0.
    :ivar replace: ``klp_patch.replace``, atomic replace; since v5.1.
    :ivar callbacks: ``klp_object.callbacks``; since v4.15.
    :ivar forget: the template of a function for what the kernel keeps in the livepatch of
        a module that goes; empty where it keeps nothing.  On x86 relocations stay written, and
        the module cannot be loaded again; Linux commit 0c05e7bd2d01 ("livepatch,x86: Clear
        relocation targets on a module removal"), v6.3, mended that.  On s390 addresses stay.
    :ivar states: ``klp_patch.states``; since v5.5.
    """

    register: bool
    replace: bool
    callbacks: bool
    forget: str = ""
    states: bool = False


def livepatch_api(kernel: Kernel) -> LivepatchApi:
    """Read the features from the kernel's header, since distributions backport.

    :raises KlpError: for a kernel whose livepatch modules have another format.
    """
    command = compile_command(kernel)
    header = command.header("linux/livepatch.h")
    if header is None:
        raise KlpError(
            "has no include/linux/livepatch.h",
            where=str(kernel.build),
            hint="Give the headers of a kernel with livepatch, v4.7 or later.",
        )
    text = header.read_text(errors="replace")
    if re.search(r"\bstruct\s+klp_reloc\s*\{", text):
        raise KlpError(
            f"kernel {kernel.release} is too old",
            where=str(header),
            why="Its livepatch modules carry struct klp_reloc; "
            "livepatch relocation sections came with v4.7.",
        )
    return LivepatchApi(
        register=re.search(r"\bklp_register_patch\s*\(", text) is not None,
        replace=re.search(r"\bbool\s+replace\s*;", text) is not None,
        callbacks=re.search(r"\bstruct\s+klp_callbacks\b", text) is not None,
        forget=_forget(command, kernel),
        states=re.search(r"\bklp_get_prev_state\b", text) is not None,
    )


def _forget(command: CompileCommand, kernel: Kernel) -> str:
    """Name the template of a function that makes the kernel forget a module."""

    def says(name: str, word: str) -> bool:
        header = command.header(name)
        return header is not None and word in header.read_text(errors="replace")

    if kernel.arch.machine == EM.S390:
        return "forget.s390.c.j2" if says("asm/module.h", "got_initialized") else ""
    clears = says("linux/moduleloader.h", "clear_relocate_add")
    x86 = kernel.arch.machine == EM.X86_64 and command.header("asm/text-patching.h") is not None
    return "forget.c.j2" if x86 and not clears else ""


def generate_tables(livepatch: Livepatch, api: LivepatchApi) -> str:
    """Generate the C file with the livepatch's tables, its init function and its description.

    The tables are static data, so that they can be read from the module's file.
    A kernel without atomic replace gets a livepatch that is stacked on others.

    :param livepatch: one with objects; its functions' old names are those of the
        kernel's symbol table, which may be a clone's.
    :raises KlpError: for callbacks that the kernel does not know, and for objects that C code
        cannot name.
    """
    problems = Problems()
    for entry in livepatch.objects:
        with problems.collect():
            check_object(entry.name)
        if (entry.called or entry.words) and not api.callbacks:
            what = "callbacks" if entry.called else "accepted data, which callbacks write"
            problems.add(
                f"object {entry.name!r} has {what}, which this kernel does not know",
                where=entry.where,
                why="They came with v4.15.",
            )
    problems.check()
    forget = api.forget if api.callbacks else ""  # by a callback
    new = dict.fromkeys(f.new for entry in livepatch.objects for f in entry.functions)
    called = dict.fromkeys(
        pair
        for entry in livepatch.objects
        for each in entry.all_callbacks
        for pair in sorted(each.items())
    )
    callback_names = {(kind, label): f"{kind}_{n}" for n, (kind, label) in enumerate(called)}
    states = numbered(livepatch)
    return _template().render(
        new_functions={label: f"new_function_{n}" for n, label in enumerate(new)},
        callbacks=[(kind, label, name) for (kind, label), name in callback_names.items()],
        callback_names=callback_names,
        objects=livepatch.objects,
        leaves={
            entry.name: bool(entry.words)
            or len(entry.all_callbacks) > 1
            or (
                bool(forget)
                and entry.name != VMLINUX
                and any("post_unpatch" in each for each in entry.all_callbacks)
            )
            for entry in livepatch.objects
        },
        calls=livepatch.calls,
        states=states if api.states else [],
        numbers={state.variable: state.number for state in states},
        places={state.variable: place for place, state in enumerate(states)},
        undone={entry.name: _undone(entry) for entry in livepatch.objects},
        replace=livepatch.replace and api.replace,
        register=api.register,
        license=livepatch.license,
        description=livepatch.description or f"livepatch {livepatch.name}",
        forget=forget,
        stays_tag=STAYS_TAG if any(w.stays for o in livepatch.objects for w in o.words) else "",
    )


def _undone(entry: PatchedObject) -> list[tuple[int, str]]:
    """List what undoes parts' ``pre_patch`` when that of a later part fails: number and callback.

    The kernel calls no ``post_unpatch`` of an object whose ``pre_patch`` failed
    (kernel/livepatch/core.h, klp_post_unpatch_callback).
    """
    parts = entry.all_callbacks
    return [
        (number, each["post_unpatch"])
        for number, each in reversed([*enumerate(parts, 1)])
        if "post_unpatch" in each and any("pre_patch" in later for later in parts[number:])
    ]


def tables_source(livepatch: Livepatch, kernel: Kernel) -> str:
    """Generate the C file with the livepatch's tables for a kernel; see `generate_tables`."""
    return generate_tables(livepatch, livepatch_api(kernel))


def _template() -> jinja2.Template:
    from klpbuild.module.templates import environment

    templates = environment(Path(__file__).parent)
    templates.filters.update(c=c_string, comment=_comment, entering=entering, leaving=leaving)
    return templates.get_template("tables.c.j2")


def _comment(text: str) -> str:
    """Take from a text what would end a comment of C."""
    return text.replace("*/", "* /")


def c_string(text: str) -> str:
    """Quote a text as a C string literal; other bytes than ASCII as octal escapes."""
    out = []
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\?':  # ?? could begin a trigraph
            out.append("\\" + char)
        elif 0x20 <= byte < 0x7F:
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'
