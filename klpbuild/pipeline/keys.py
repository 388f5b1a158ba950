"""Recompile code so that it reads the static keys of modules when it runs.

The kernel reads a livepatch's jump table when the livepatch is loaded
(kernel/jump_label.c, jump_label_add_module), and a module that owns a key need not be there
then.  So both versions of an object are compiled once more, in a way that these keys, and no
others, are read as variables, as static_key_enabled() does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.keys import changed_functions, may_branch, outline
from klpbuild.extract.names import base_name, cold_parent
from klpbuild.extract.part import Part
from klpbuild.extract.result import Key, KeyPolicy
from klpbuild.files.whole import write_file
from klpbuild.kernel.cache import locked
from klpbuild.names import VMLINUX
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.patch.recompile import SECTION_FLAGS

#: The kernel's macros hand `arch_static_branch(key, branch)` the text of the key, of which the
#: compiler knows whether it is one of these; it returns whether the key differs from `branch`
#: (include/linux/jump_label.h, the table above static_branch_likely).
_HEADER = """\
#include <linux/jump_label.h>
#define KLPBUILD_IS(text) ({tests})
#define KLPBUILD_ENABLED(key) (*(const volatile int *)&(key)->enabled.counter != 0)
#define arch_static_branch(key, branch) \\
	(KLPBUILD_IS(#key) ? KLPBUILD_ENABLED(key) != (branch) : (arch_static_branch)(key, branch))
#define arch_static_branch_jump(key, branch) \\
	(KLPBUILD_IS(#key) ? KLPBUILD_ENABLED(key) != (branch) \\
		: (arch_static_branch_jump)(key, branch))
#define static_key_false(key) \\
	(KLPBUILD_IS(#key) ? KLPBUILD_ENABLED(key) : (static_key_false)(key))
#define static_key_true(key) \\
	(KLPBUILD_IS(#key) ? KLPBUILD_ENABLED(key) : (static_key_true)(key))
"""
#: Forms of a key in code: of static_branch_likely(&NAME), and of the older static_key_false().
_WRITTEN = ("&(&{0})->key", "&(&{0}.key)->key", "&{0}.key", "&{0}")


def asking_header(names: set[str]) -> str:
    """Write a header to include before all others, by which code reads keys of these names."""
    tests = (
        f'!__builtin_strcmp(text, "{form.format(n)}")' for n in sorted(names) for form in _WRITTEN
    )
    return _HEADER.format(tests=" || ".join(tests))


def ask_keys_of_modules(
    compiled: CompiledPatch,
    part: Callable[[int, ObjectPair], Part],
    policy: Callable[[ObjectPair], KeyPolicy],
    branching: Callable[[ObjectPair, Part], Collection[Key]],
) -> CompiledPatch:
    """Compile those objects otherwise whose changed code branches by a module's static key.

    An object that then has functions of its own, other variables, or lacks a function that changes,
    stays as it was: extraction refuses the key.  What changes in either way is replaced: a function
    may have another one inlined as the kernel has it, and call it as it is compiled here.

    :param part: reads a pair, once for its number.
    :param policy: the rule for the keys of an object.
    :param branching: finds the keys that changed code of an object branches by.
    """
    pairs, notes = [], []
    for number, pair in enumerate(compiled.pairs):
        names = set[str]()
        if pair.owner != VMLINUX:
            read = part(number, pair)
            names = asked_keys(read, policy(pair), partial(branching, pair, read))
        other = _asking(compiled, pair, names, partial(part, number)) if names else None
        pairs.append(other or pair)
        part(number, pairs[-1]).forget()  # what was found without the other objects
        if other is not None:
            keys = ", ".join(sorted(names))
            notes.append(f"{pair.where}: asks static keys of modules when it runs: {keys}")
    return replace(compiled, pairs=tuple(pairs), notes=(*compiled.notes, *notes))


def asked_keys(part: Part, policy: KeyPolicy, branching: Callable[[], Collection[Key]]) -> set[str]:
    """List the keys by which changed code branches and that the kernel would not find."""
    if not may_branch(part.patched, part.sizes, policy):
        return set()
    # A function's own, as that of DO_ONCE(), has a number that the text does not have.
    return {base_name(key.name) for key in branching() if isinstance(policy(key), str)}


def _asking(
    compiled: CompiledPatch, pair: ObjectPair, names: set[str], read: Callable[[ObjectPair], Part]
) -> ObjectPair | None:
    """Compile the pair once more, None if it cannot stand for what runs."""
    text = asking_header(names).encode()
    header = compiled.tree.kept / "keys" / f"{hashlib.sha256(text).hexdigest()[:16]}.h"
    write_file(header, text)
    before = {name for name in changed_functions(read(pair)).values() if not cold_parent(name)}
    functions, variables = outline(ElfFile.read(pair.original))
    # Beside the other one, which was read, and must not change under its reader.
    compiler = replace(compiled.compiler, workdir=compiled.compiler.workdir / "asking")
    command = replace(pair.command, arguments=(*pair.command.arguments, "-include", str(header)))
    with locked(compiled.compiler.workdir), suppress(KlpError):
        original = compiler.kept(command, "asking", SECTION_FLAGS)
        patched = compiler.patched(command, False)
        assert patched is not None
        known = frozenset(before - {""})
        made = replace(pair, original=original, patched=patched, command=command, known=known)
        others, same = outline(ElfFile.read(original))
        changed = set(changed_functions(read(made)).values())
        if others <= functions and same == variables and before <= changed:
            return made
    return None
