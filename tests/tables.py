"""Livepatches in C with tables of their own, and modules that say what they need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.objects import compile_c

_STRUCTS = """
typedef unsigned long long u64;
struct module { char state[24]; char name[56]; void *init, *exit; };
struct klp_func { const char *old_name; void *new_func; u64 old_sympos; u64 internal[16]; };
struct klp_callbacks { void *pre_patch, *post_patch, *pre_unpatch, *post_unpatch; };
struct klp_object {
    const char *name; struct klp_func *funcs; struct klp_callbacks callbacks; u64 internal[15];
};
struct klp_patch { struct module *mod; struct klp_object *objs; u64 internal[20]; };
extern int klp_enable_patch(struct klp_patch *);
#define noinline __attribute__((noinline, noclone))
"""
_END = """
static struct klp_object objects[] = { %s { } };
struct module __this_module;
static struct klp_patch patch = { &__this_module, objects };
int init_module(void) { %s return klp_enable_patch(&patch); }
void cleanup_module(void) { %s }
struct module __attribute__((section(".gnu.linkonce.this_module"))) __this_module =
    { .name = "livepatch_demo", .init = init_module, .exit = cleanup_module };
"""


def livepatch_c(source: str, objects: Mapping[str, str], init: str = "", exit: str = "") -> str:
    """A livepatch as C text.

    :param source: its functions.
    :param objects: for each object its new functions and ``callback=function``, with blanks
        between; a function ``f`` replaces ``old_f``.
    :param init: what its init function does first.
    :param exit: what its exit function does.
    """
    tables, entries = [], []
    for name, text in objects.items():
        words = text.split()
        new = [word for word in words if "=" not in word]
        functions = "".join(f'{{ "old_{word}", {word} }}, ' for word in new)
        callbacks = "".join(f".{word.replace('=', ' = ')}, " for word in words if "=" in word)
        tables.append(f"static struct klp_func functions_{name}[] = {{ {functions}{{ }} }};\n")
        called = "0" if name == "vmlinux" else f'"{name}"'
        entries.append(f"{{ {called}, functions_{name}, {{ {callbacks}}} }},")
    return _STRUCTS + source + "".join(tables) + _END % ("".join(entries), init, exit)


def modules(directory: Path, **depends: str) -> tuple[Path, ...]:
    """Modules of a kernel that say what they need: names with commas between."""
    found = []
    for name, needed in depends.items():
        text = f"""static const char depends[] __attribute__((section(".modinfo"), used)) =
            "license=GPL\\0depends={needed}\\0name={name}"; int {name};"""
        found.append(compile_c(directory, text, name=name).rename(directory / f"{name}.ko"))
    return tuple(found)
