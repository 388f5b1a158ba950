"""Undo what the compiler and the kernel's macros do to names (suffixes, prefixes)."""

from __future__ import annotations

import re

#: Suffixes of functions that GCC and Clang split off, clone or rename.
_CLONE_NUMBER = re.compile(r"\.(isra|constprop|part|cold|localalias|lto_priv)\.\d+")
_LLVM_HASH = re.compile(r"\.llvm\.\d+")
_STATIC_NUMBER = re.compile(r"\.\d+$")
#: A number of its own for each use; since 6.19 an underscore stands before it.
_UNIQUE_ID = re.compile(
    r"^(__UNIQUE_ID_\D.*?)[\d_]*\d$"
    r"|^(__addressable_.*?|__initcall__kmod_.*?_|__BTF_ID__\w+?__)\d[\d_]*"
)
#: A constant that GCC made of an initialiser: C.0.5.
_CONSTANT = re.compile(r"C(\.\d+)+$")
#: What MODULE_DEVICE_TABLE calls a table for modpost, which makes the module's aliases of
#: it (include/linux/module.h); since v6.14 the name is in another order.
_FOR_MODPOST = re.compile(r"__mod_(\w+_device_table|device_table__\w+)$")
_COLD = re.compile(r"\.cold(\.\d+)?$")
_CLONE = re.compile(r"\.(isra|constprop|part|cold|localalias|llvm|lto_priv)(\.\d+)?")
#: Those of which callers may pass other parameters than the source says.
_PASSED_OTHERWISE = re.compile(r"\.(isra|constprop|part)\b")

#: Sections of what gcc's undefined behaviour sanitizer passes to its handlers, numbered in the
#: order of the code.  Their contents have no symbols.
UBSAN = ".data..Lubsan_"

#: Label of a string or another constant.
CONSTANT_LABEL = ".LC"

#: Static variables that macros declare once per use.
_SPECIAL = frozenset({
    "__key", "__warned", "__already_done", "__print_once", "__func__", "__FUNCTION__",
    "__PRETTY_FUNCTION__", "__msg", "_rs", "CSWTCH", "_entry", "_entry_ptr", "descriptor",
    "__UNIQUE_ID_ddebug", "trace_printk_fmt",
})  # fmt: skip
#: Those that are written and lie among other variables: a rate limit, which lets some more lines
#: pass when it begins anew, and what tells lockdep locks apart.
_LIMITS = frozenset({"_rs", "__key"})


def is_for_modpost(name: str) -> bool:
    """Tell whether a symbol is an alias of a table that only modpost reads."""
    return _FOR_MODPOST.match(name) is not None


def base_name(name: str) -> str:
    """Strip the numbers that change from one compilation to the next.

    ``count.12`` is ``count``, ``f.isra.0`` is ``f.isra``, ``__UNIQUE_ID_ddebug241.3`` is
    ``__UNIQUE_ID_ddebug``.
    """
    if _CONSTANT.match(name):
        return "C"
    name = _STATIC_NUMBER.sub("", _CLONE_NUMBER.sub(r".\1", _LLVM_HASH.sub("", name)))
    return _UNIQUE_ID.sub(r"\1\2", name)


def source_name(name: str) -> str:
    """Strip suffixes to the function's name in the source: ``f.isra.0.cold`` is ``f``."""
    return _STATIC_NUMBER.sub("", _CLONE.sub("", name))


def is_clone(name: str) -> bool:
    """Tell whether a function's parameters may not be those of its source."""
    return _PASSED_OTHERWISE.search(name) is not None


def static_number(name: str) -> int | None:
    """Parse the number of a static variable inside a function: 12 for ``count.12``."""
    match = _STATIC_NUMBER.search(name)
    return int(match[0][1:]) if match else None


def cold_parent(name: str) -> str | None:
    """Name the function that a cold part was split off from, None for other names."""
    match = _COLD.search(name)
    return name[: match.start()] if match else None


def is_made_by_compiler(name: str) -> bool:
    """Tell whether it is data that the compiler made of an initialiser or a check."""
    return _CONSTANT.match(name) is not None or name.startswith(UBSAN)


def is_named_by_macro(name: str) -> bool:
    """Tell whether a static variable has a name that macros give."""
    base = base_name(name)
    # Clang puts the function first: f.__warned
    return (base != name and base in _SPECIAL) or base.rpartition(".")[2] in _SPECIAL - {base}


def is_limit(name: str) -> bool:
    """Tell whether a static variable is called as a rate limit, or a class of locks, of a macro."""
    return is_named_by_macro(name) and base_name(name).rpartition(".")[2] in _LIMITS
