"""Prove that a new member of a structure takes memory that is zero in each one that exists.

The member stands in a hole, or in the slack behind the structure that the allocator gives it.
The original is compiled once more with the structure grown: what differs then depends on its
size, and must be functions whose text allocates zeroed memory and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Layout, Member
from klpbuild.errors import KlpError
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.csource import closing_braces, code_alone, directives
from klpbuild.patch.layout import changed_layouts, layouts
from klpbuild.patch.members import UAPI
from klpbuild.patch.patched import PatchedFile, SourceLine
from klpbuild.patch.recompile import SECTION_FLAGS, Recompiler
from klpbuild.patch.shadow import make_shadow

#: Sizes of what kmalloc() gives, in bytes (mm/slab_common.c, kmalloc_info).
_KMALLOC = (8, 16, 32, 64, 96, 128, 192, *(1 << n for n in range(8, 14)))
#: Limit on objects that are compiled for a proof.
OBJECTS_MAX = 40
#: Options that fill the memory behind an allocation with a pattern, and report who writes there.
_WATCHING = (b"KASAN", b"KFENCE", b"SLUB_DEBUG_ON")
_GROWN = b" char klpbuild_grown[16384]; "
#: Allocators that clear what they give; the slack behind it too, if they are kmalloc()'s.
CLEARS = re.compile(
    rb"\b(?:k[zc]alloc(?:_node)?|devm_k[zc]alloc|kv[zc]alloc|vzalloc|kv?zalloc_(?:objs?|flex)"
    rb"|(?:__)?alloc_percpu(?:_gfp)?|alloc_(?:ether|net)dev(?:_mqs?)?|scsi_host_alloc)\b"
)
_EXACTLY = rb"\bkzalloc(?:_node)?\s*\(\s*sizeof\s*(?:\([^()]*\)|\*?\s*\w+)\s*,|\bkzalloc_obj\s*\("
MADE_ZERO = re.compile(rb"\bmemset\s*\([^;]*?,\s*0\s*,")
#: Other functions that may allocate memory, or fill it with what is not zero.
_OTHERS = re.compile(
    rb"\b\w*(?:alloc|memdup|memcpy|memmove|copy_|strdup|memset|_put\w*data|skb_put|skb_push|_priv"
    rb"|vmap|get_free_page|fillbytes|random_bytes|read_buf)\w*\b|\b\w*ALLOC\w*(?=\s*\()"
)
#: Functions that allocate or fill as many bytes as a caller likes, which a macro may tell.
_ANY_SIZE = re.compile(
    r"_*(?:k|v|kv|devm_k)?(?:[mz]alloc|realloc|calloc|mem(?!_cache_)|strndup)\w*|_*copy_\w+"
)
#: Macros that allocate pages, whatever the size of anything.
_PAGES = {"alloc_page", "alloc_pages", "__get_free_page", "dev_alloc_page"}
_FUNCTION = re.compile(
    r"\.text\.(?:unlikely\.|hot\.|startup\.)?(\w+)(?:\.(?:cold|part|isra|constprop)[.\d]*)*"
)
#: Tables about code, whose places move with it.
_TABLES = re.compile(
    r"__bug_table|__ex_table|__jump_table|\.altinst\w+|\.parainstructions|\.smp_locks|__mcount_loc"
    r"|__patchable_function_entries|\.discard\..*|\.comment|\.static_call.*|\.kcfi_traps"
)
_NAMED = re.compile(rb"\b(\w+)\s*\(")
#: Members that are not called.
_NUMBERS = re.compile(rb"(?:->|\.)\s*\w+\b(?!\s*\()")
_SIZEOF = re.compile(rb"\bsizeof\b\s*(?:\(\s*)?([^();,]*\w)")
#: What may be as large as the structure, and what may be one.
_COMPUTED_SIZE = re.compile(rb"\b(?:struct_size\w*|flex_array_size|offsetof\w*|sizeof)\b")
_OF_ITS_TYPE = re.compile(rb"\b(?:(?:__)?typeof(?:__|_unqual\w*)?|__auto_type)\b")
_AS_VALUE = "one is on the stack, or copied whole"
_DEFINE = re.compile(rb"[ \t]*#[ \t]*define[ \t]+(\w+)")
_OTHER_TYPE = re.compile(
    rb"(?:struct|union|enum) \w+|[us](?:8|16|32|64)|__(?:[us]|[bl]e)\d+|char|int|long|\w+_t"
)
_VARIABLE = re.compile(rb"[A-Za-z_]\w*(?:(?:->|\.)\w+)*")
_WORD = re.compile(rb"[A-Za-z_]\w*")


def new_members(before: Layout, after: Layout) -> tuple[Member, ...]:
    """List the members that a structure gets in holes; none if anything else changes.

    It may grow within what kmalloc() gives for it.
    """
    olds = set(before.members)
    news = tuple(member for member in after.members if member not in olds)
    kept = olds <= set(after.members)
    taken = [(m.offset, m.offset + 8 * max(abs(m.size), 1)) for m in before.members]
    free = all(
        not (start < m.offset + 8 * max(abs(m.size), 1) and m.offset < end)
        for m in news
        for start, end in taken
    )
    return news if kept and free and _room(before.size) == _room(after.size) else ()


def _room(size: int) -> int:
    return next((room for room in _KMALLOC if size <= room), size)


def why_not_zero(
    compiler: Recompiler,
    name: str,
    sizes: tuple[int, int],
    file: PatchedFile,
    commands: Sequence[CompileCommand],
    *,
    only_cleared: bool = False,
) -> str:
    """Explain why new members of a structure may not be zero in each one that exists; else empty.

    :param name: such as ``struct x``; it is declared in the file.
    :param sizes: of the structure in bytes, before and after.
    :param commands: how all objects are compiled that are made from the file.
    :param only_cleared: whether it is known that no code asks for its size but to clear as much.
    """
    larger = grown(file, name)
    if larger is None:
        return f"{file.path} does not declare it once"
    if UAPI.search(file.path):
        return "programs know it, too, and may write there"
    config = compiler.tree.build / ".config"
    exactly = sizes[0] != sizes[1]
    text = config.read_bytes() if exactly and config.is_file() else b""
    if watching := re.search(rb"^CONFIG_(%b)=y" % b"|".join(_WATCHING), text, re.MULTILINE):
        return f"{watching[1].decode()} watches the memory behind it"
    if len(commands) > OBJECTS_MAX:
        return f"{len(commands)} objects know it"
    shadow = compiler.workdir / "grown" / name.split()[-1] / "shadow"
    make_shadow(shadow, compiler.tree.source, [larger], compiler.real, directives=False)
    other = replace(compiler, files=(larger,), shadow=shadow, workdir=shadow.parent)
    is_allocated = False
    for command in commands:
        try:
            old = ElfFile.read(compiler.kept(command, "sections", SECTION_FLAGS))
            made = other.patched(command, False)
            types = [each.with_layouts(command, each is other) for each in (compiler, other)]
        except KlpError:
            return f"{command.target} does not compile with more members in it"
        assert made is not None
        before, after = (layouts(ElfFile.read(path)) for path in types)
        if others := [n for n, _ in changed_layouts(before, after) if n != name]:
            return f"it is part of {others[0]}"
        functions, rest = differing(old, ElfFile.read(made))
        if rest:
            return f"{rest} of {command.target} depends on its size"
        source = Path(command.source.removeprefix(f"{compiler.tree.source}/"))
        texts = [file.original or b"", (compiler.tree.source / source).read_bytes()]
        outside = {symbol.name for symbol in old.symbol_list if not symbol.st_shndx}
        why = _why_not_cleared(
            texts, name, functions, outside, exactly=exactly, only_cleared=only_cleared
        )
        if why:
            return why
        is_allocated = is_allocated or bool(functions)
    return "" if is_allocated else "nothing that was compiled allocates it"


def grown(file: PatchedFile, name: str) -> PatchedFile | None:
    """Make the original file with one member more behind the structure's others."""
    original = file.original or b""
    plain = code_alone(original)
    tag = re.escape(name.encode()).replace(rb"\ ", rb"\s+")
    found = list(re.finditer(rb"\b%b\s*\{" % tag, plain))
    if len(found) != 1:
        return None
    end = closing_braces(plain).get(found[0].end() - 1)
    if end is None:
        return None
    text = original[: end - 1] + _GROWN + original[end - 1 :]
    lines = tuple(SourceLine(line, n) for n, line in enumerate(text.splitlines(True), 1))
    return replace(file, lines=lines)


def differing(old: ElfFile, new: ElfFile) -> tuple[set[str], str]:
    """Find the functions that differ in two objects, and any other section that does."""
    before, after = _contents(old), _contents(new)
    functions = set()
    for section in sorted(before.keys() | after.keys()):
        if before.get(section) == after.get(section) or _TABLES.fullmatch(section):
            continue
        match = _FUNCTION.fullmatch(section)
        if match is None:
            return set(), section
        functions.add(match[1])
    return functions, ""


def _contents(elf: ElfFile) -> dict[str, list[object]]:
    """Collect what is in each section: bytes, size, and what relocations lead to."""
    found: dict[str, list[object]] = {}
    names = {}
    for section in elf.sections:
        if section.sh_flags & SHF.ALLOC:
            data = b"" if section.sh_type == SHT.NOBITS else bytes(elf.contents(section))
            found.setdefault(section.name, []).append((section.sh_size, data))
            names[section.index] = section.name
    for relocations in elf.relocation_sections:
        if relocations.sh_info not in names:
            continue
        for row in elf.relocations(relocations):
            symbol = elf.symbol_list[int(row["r_sym"])]
            aim = symbol.name or elf.sections[symbol.st_shndx].name
            place = int(row["r_offset"]), int(row["r_type"]), aim, int(row["r_addend"])
            found[names[relocations.sh_info]].append(place)
    return found


def _why_not_cleared(
    texts: Sequence[bytes],
    name: str,
    functions: set[str],
    outside: set[str],
    *,
    exactly: bool,
    only_cleared: bool,
) -> str:
    """Explain why functions that depend on a structure's size do more than allocate zeroed ones.

    What they call in these texts counts with them, since it may be inlined.

    :param outside: the functions of other objects that are called; what is not may be a macro.
    """
    bodies: dict[str, bytes] = {}
    macros = frozenset().union(*map(_asking_macros, texts))
    for text in texts:
        plain = code_alone(text)
        bodies |= _bodies(plain)
        tag = re.escape(name.encode()).replace(rb"\ ", rb"\s+")
        value = rb"\b%b\s+\w+\s*[;,=\[)]|\(\s*%b\s*\)\s*\{" % (tag, tag)
        if functions and re.search(value, plain):
            return _AS_VALUE
    for function in sorted(functions):
        called: set[str] = set()
        waiting, whole = [function], b""
        while waiting:
            one = waiting.pop()
            if one in bodies and one not in called:
                called.add(one)
                body = MADE_ZERO.sub(b"", bodies[one])
                whole += body
                waiting += [word.decode() for word in _NAMED.findall(body)]
        if _OF_ITS_TYPE.search(whole):
            return _AS_VALUE
        cleared = CLEARS.findall(whole)
        rest = _without_calls(whole, CLEARS)
        harmless = set(bodies)  # they are in `whole`
        asks = _asks_size(rest, name, macros)
        if not asks:
            harmless |= {each for each in outside if not _ANY_SIZE.fullmatch(each)} | _PAGES
            rest = _NUMBERS.sub(b"", rest)
        others = (m[0] for m in _OTHERS.finditer(rest) if not CLEARS.fullmatch(m[0]))
        other = next((each for each in others if each.decode() not in harmless), None)
        if not cleared:
            return f"{function}() depends on its size, and allocates none"
        if other is not None and not only_cleared:
            return f"{function}() uses {other.decode()}()"
        if asks and not only_cleared:
            return f"{function}() may ask for its size, and not to clear as much"
        if exactly and len(re.findall(_EXACTLY, whole)) != len(cleared):
            return f"{function}() may allocate more than one of it"
    return ""


def calls(plain: bytes, names: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """Find calls of some functions: where the name begins, and where the parenthesis closes."""
    for match in names.finditer(plain):
        depth, at = 0, match.end()
        while at < len(plain):
            depth += {b"(": 1, b")": -1}.get(plain[at : at + 1], 0)
            at += 1
            if depth == 0:
                break
        yield match.start(), at


def _without_calls(plain: bytes, names: re.Pattern[bytes]) -> bytes:
    """Blank out the arguments of calls of some functions."""
    out = bytearray(plain)
    for start, end in calls(plain, names):
        begin = plain.find(b"(", start, end)
        if begin >= 0:
            out[begin:end] = b" " * (end - begin)
    return bytes(out)


def _asks_size(plain: bytes, name: str, macros: frozenset[bytes]) -> bool:
    """Tell whether code may ask for the size of a structure.

    It has no variable of that type: that is looked for elsewhere.

    :param macros: those that ask for the size of something.
    """
    if not macros.isdisjoint(_WORD.findall(plain)):
        return True
    rest = _SIZEOF.sub(lambda m: b"" if _is_other(m[1], name) else m[0], plain)
    return _COMPUTED_SIZE.search(rest) is not None


def _is_other(aim: bytes, name: str) -> bool:
    """Tell whether what a ``sizeof`` is of has another type: a variable, a member, a type."""
    if _OTHER_TYPE.fullmatch(aim):
        return aim.decode() != name
    return _VARIABLE.fullmatch(aim) is not None


def _asking_macros(text: bytes) -> frozenset[bytes]:
    """Find the macros of a text that ask for the size of something, directly or not."""
    bodies = {}
    for line in directives(text):
        if match := _DEFINE.match(line[0]):
            bodies[match[1]] = line[0][match.end() :]
    found = {name for name, body in bodies.items()
             if _COMPUTED_SIZE.search(body) or _OF_ITS_TYPE.search(body)}  # fmt: skip
    while more := {n for n, body in bodies.items() if not found.isdisjoint(_WORD.findall(body))}:
        if more <= found:
            break
        found |= more
    return frozenset(found)


def _bodies(plain: bytes) -> dict[str, bytes]:
    """Find the text of the functions of a file, by their names."""
    closing = closing_braces(plain)
    found = {}
    done = 0
    for match in re.finditer(rb"^\{", plain, re.MULTILINE):
        head = re.split(rb"[;}]", plain[done : match.start()])[-1]
        end = closing.get(match.start())
        if end is None:
            break
        if called := _NAMED.search(head):
            found[called[1].decode()] = plain[match.start() : end]
        done = end
    return found
