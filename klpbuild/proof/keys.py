"""Decide which static keys and static calls a livepatch may use."""

from __future__ import annotations

from collections.abc import Callable

from klpbuild.extract.result import Key, KeyKind, KeyPolicy, KeyUse
from klpbuild.names import VMLINUX
from klpbuild.resolve.fate import Resolver

# Code that only traces may stay switched off.
_TRACEPOINT = "__tracepoint_"


def key_policy(
    resolver: Resolver, home: str, is_new: Callable[[str], bool] = lambda name: False
) -> KeyPolicy:
    """Make the rule for the keys that code from an object uses.

    The kernel reads ``__jump_table`` and ``.static_call_sites`` of the livepatch when it
    loads, and a module that owns a key need not be there then (kernel/jump_label.c,
    jump_label_add_module; livepatch relocations of modules come later).

    :param home: the object that the code is from.
    :param is_new: whether the livepatch brings a global of a name.
    """

    def decide(key: Key) -> KeyUse | str:
        owner = home if key.is_defined else resolver.owner(key.name, home)
        if owner == VMLINUX or (not owner and is_new(key.name)):
            return KeyUse.SWITCHED
        # A trampoline is called like any function, and is right at all times.
        if key.kind is KeyKind.STATIC_CALL or key.name.startswith(_TRACEPOINT):
            return KeyUse.DETACHED
        if not owner:
            return f"static key {key.name} is not in this kernel where {home} could use it"
        return (
            f"static key {key.name} belongs to module {owner}, "
            "which need not be loaded when the kernel reads the livepatch's jump table: "
            "use static_key_enabled() in the patch"
        )

    return decide
