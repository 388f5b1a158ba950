"""Read ``livepatch.toml``, the description of a hand-written livepatch.

::

    description = "show saved_command_line in /proc/cmdline"
    license = "GPL"                  # default
    references = ["CVE-2024-1234"]   # default: none
    replace = true                   # default
    kernels = ["fixtures"]           # default: every kernel
    sources = ["cmdline.c"]          # default: every .c file of the directory
    accept_layouts = ["struct x"]    # structures that may differ from the kernel's
    accept_threads = ["worker"]      # functions of kernel threads that it may replace
    accept_data = ["policy"]         # variables that patches may change
    version = "1"                    # default: none; its package needs one
    skip = ["x.patch"]               # source patches that are left out on purpose
    state_version = 1                # of what stays behind when another livepatch takes over
    parts = ["fix"]                  # directories in it whose fixes it is made of

    [[object]]
    name = "vmlinux"
    functions = [{ old = "cmdline_proc_show", new = "livepatch_cmdline_proc_show" }]
    callbacks = { post_patch = "livepatch_announce" }
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from klpbuild.errors import KlpError
from klpbuild.files.given import check_file_names, is_file
from klpbuild.module.accepted import Accepted
from klpbuild.module.listed import with_list
from klpbuild.module.livepatch import (
    CALLBACKS,
    FILE_NAME,
    Function,
    Livepatch,
    PartName,
    PatchedObject,
    Skipped,
    State,
    check_name,
    check_object,
)
from klpbuild.module.owntables import (
    brings_own_tables,
    no_tables,
    separate_sources,
    starts_livepatch,
    two_tables,
)
from klpbuild.module.states import may_allocate
from klpbuild.module.toml import TomlFile
from klpbuild.module.tomlreader import TableReader, shown
from klpbuild.names import SYMBOL_NAME_MAX, SYMPOS_MAX, object_name

# Licences with which a module may use GPL-only symbols (include/linux/license.h);
# klp_enable_patch is one.
_LICENSES = (
    "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL",
)  # fmt: skip

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Of a compiler's clone the name has dots: ext4_attr_show.isra.0
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
_REFERENCE = re.compile(r"[\x20-\x7e]+")
# dpkg and rpm order such versions alike.
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


class Made(Enum):
    """What a livepatch, or a part of one, is made from."""

    SOURCES = "C files"
    PATCHES = "source patches"
    PARTS = "parts"
    LIST = "C files, and a list of what they replace"


def read_livepatch(
    directory: Path, made: Made = Made.SOURCES, *, is_part: bool = False
) -> Livepatch:
    """Read the livepatch in a directory; its name is the directory's.

    Without ``livepatch.toml`` its sources must bring their own tables.

    :param made: what it is made from, as far as its files tell: its description may name parts.
        Only C files need a source and an object.
    :param is_part: whether it is a part of another one, which says what counts for all parts.
    :raises KlpError: with everything that is wrong in the file, or in the names of its sources.
    """
    livepatch = _read(directory, made, is_part)
    check_file_names(livepatch.sources)
    return with_list(directory, livepatch) if made is Made.LIST else livepatch


def _read(directory: Path, made: Made, is_part: bool) -> Livepatch:
    if not directory.is_dir():
        raise KlpError("is not a directory", where=str(directory))
    name = directory.absolute().name  # a link's own: two may lead to one directory
    check_name(name)
    path = directory / FILE_NAME
    found = separate_sources(sorted(directory.glob("*.c")))
    try:
        file = TomlFile.read(path)
    except FileNotFoundError:
        if made is Made.PARTS:
            own = any(map(brings_own_tables, found))
            return Livepatch(name, found, own_tables=own, states=_states(name, found))
        if made is Made.PATCHES or (made is Made.LIST and found):
            return Livepatch(name, found, states=_states(name, found))
        return _without_description(name, directory, found)
    return _Reader(file, made, is_part).livepatch(name, file.table, found)


def _states(name: str, sources: tuple[Path, ...]) -> tuple[State, ...]:
    return (State(name),) if any(map(may_allocate, sources)) else ()


def _without_description(name: str, directory: Path, sources: tuple[Path, ...]) -> Livepatch:
    if not sources:
        raise KlpError("has no C source", where=str(directory), hint=f"Write one and {FILE_NAME}.")
    if any(map(brings_own_tables, sources)):
        return Livepatch(name, sources, own_tables=True)
    raise no_tables(directory)


_KEYS = (
    "description", "license", "references", "replace", "kernels", "sources", "accept_layouts",
    "accept_threads", "accept_data", "version", "skip", "state_version", "parts", "object",
)  # fmt: skip
#: What a livepatch says for all its parts.
_KEYS_OF_ALL = ("license", "replace", "kernels", "version", "parts")
#: The kernel's is an unsigned int.
_STATE_MAX = (1 << 32) - 1
_OBJECT_KEYS = ("name", "functions", "callbacks")
_FUNCTION_KEYS = ("old", "new", "sympos")


class _Reader(TableReader):
    """Reads the description of a livepatch."""

    def __init__(self, file: TomlFile, made: Made, is_part: bool) -> None:
        super().__init__(file)
        self.patches = made is Made.PATCHES
        self.whole = made is Made.PARTS or (bool(file.table.get("parts")) and not is_part)
        self.has_list = made is Made.LIST
        self.is_part = is_part

    def livepatch(self, name: str, table: Mapping[str, Any], found: tuple[Path, ...]) -> Livepatch:
        self.known_keys(table, _KEYS, "", 0)
        for key in _KEYS_OF_ALL if self.is_part else ():
            if key in table:
                what = f"{key} stands in a part of a livepatch"
                self.add(what, key, hint=f"Write it into the livepatch's own {FILE_NAME}.")
        sources = self.sources(table, found)
        own_tables = self.own_tables(sources, table)
        license_ = self.value(table, "license", str, "GPL")
        if license_ not in _LICENSES:
            self.add(
                f"license {shown(license_)} cannot be a livepatch's",
                "license",
                why="klp_enable_patch is exported to GPL-compatible modules only.",
                hint=f"One of: {', '.join(_LICENSES)}.",
            )
        description = self.value(table, "description", str, "")
        if description and not description.isprintable():
            self.add("description has a line break or another control character", "description")
        livepatch = Livepatch(
            name,
            sources,
            self.objects(table, own_tables),
            description,
            license_,
            self.texts(table, "references", _REFERENCE),
            self.value(table, "replace", bool, True),
            self.texts(table, "kernels", _REFERENCE),
            own_tables,
            Accepted(
                self.texts(table, "accept_layouts", _REFERENCE),
                self.texts(table, "accept_threads", _REFERENCE),
                self.texts(table, "accept_data", _SYMBOL),
            ),
            self.version(name, table),
            self.skip(table),
            self.parts(table),
            states=self.states(name, table, sources),
        )
        if self.problems:
            raise self.error()
        return livepatch

    def skip(self, table: Mapping[str, Any]) -> tuple[Skipped, ...]:
        start = self.file.line_of_key("skip")
        kind, example = ("part", "x") if self.whole else ("patch", "x.patch")
        found = []
        for item in self.value(table, "skip", list, []):
            entry = {kind: item} if isinstance(item, str) else item
            if not isinstance(entry, dict) or kind not in entry:
                hint = f'Write "{example}", or {{ {kind} = "{example}", reason = "..." }}.'
                self.add(f"skip does not name a {kind}", "skip", hint=hint)
                continue
            at = self.file.line_of(str(entry[kind]), start)
            self.known_keys(entry, (kind, "reason"), "skip", at)
            name, reason = (self.value(entry, key, str, "", at) for key in (kind, "reason"))
            if not reason.isprintable():
                self.add_at(at, "reason has a line break or another control character")
            found.append(Skipped(name, reason, f"{self.path}:{at}"))
        if found and not self.patches and not self.whole:
            self.add("skip is for source patches", "skip", hint="Name the C files in sources.")
        return tuple(found)

    def states(
        self, name: str, table: Mapping[str, Any], sources: tuple[Path, ...]
    ) -> tuple[State, ...]:
        version = self.value(table, "state_version", int, 0)
        if not 0 <= version <= _STATE_MAX:
            self.add(
                f"state_version = {version} is not between 0 and {_STATE_MAX}", "state_version"
            )
        if "state_version" in table:
            return (State(name, version),)
        return _states(name, sources)

    def parts(self, table: Mapping[str, Any]) -> tuple[PartName, ...]:
        start, found = self.file.line_of_key("parts"), []
        for name in self.texts(table, "parts", _REFERENCE):
            at = self.file.line_of(name, start)
            found.append(PartName(name, f"{self.path}:{at}"))
        return tuple(found)

    def version(self, name: str, table: Mapping[str, Any]) -> str:
        version = self.value(table, "version", str, "")
        if "version" in table and isinstance(table["version"], str):
            if not _VERSION.fullmatch(version):
                self.add(
                    f"version {shown(version)} is not made of numbers",
                    "version",
                    why="It becomes part of the module's name and the version of packages.",
                    hint='Write version = "1", or "1.2".',
                )
            try:
                check_name(name, version)
            except KlpError as error:
                self.add(error.problems[0].what, "version", why=error.problems[0].why)
        return version

    def own_tables(self, sources: tuple[Path, ...], table: Mapping[str, Any]) -> bool:
        if "object" not in table:
            return any(map(brings_own_tables, sources))
        own = [source for source in sources if starts_livepatch(source)]
        if own:
            line = self.file.line_of_key("object")
            (problem,) = two_tables(f"{self.path}:{line}", own[0].name).problems
            self.problems.append((line, problem))
        return bool(own)

    def sources(self, table: Mapping[str, Any], found: tuple[Path, ...]) -> tuple[Path, ...]:
        directory = self.path.parent
        if "sources" not in table:
            if not found and not self.patches and not self.whole:
                self.add("the livepatch has no C source", "", hint=f"Write one in {directory}.")
            return found
        named = self.texts(table, "sources", _REFERENCE)
        result = []
        for name in named:
            path = directory / name
            if Path(name).is_absolute() or ".." in Path(name).parts or not name.endswith(".c"):
                self.add(f"source {name!r} is not a C file of this directory", "sources", name)
            elif not is_file(path):
                near = difflib.get_close_matches(name, [p.name for p in found], 1)
                self.add(
                    f"source {name!r} does not exist",
                    "sources",
                    name,
                    hint=f"Did you mean {near[0]!r}?" if near else "",
                )
            else:
                result.append(path)
        stems = [path.stem for path in result]
        for stem in sorted({stem for stem in stems if stems.count(stem) > 1}):
            self.add(f"two sources are called {stem}.c", "sources", hint="Rename one of them.")
        return tuple(result)

    def objects(self, table: Mapping[str, Any], own_tables: bool) -> tuple[PatchedObject, ...]:
        tables = self.value(table, "object", list, [])
        needless = own_tables or self.patches or self.whole or self.has_list
        if not tables and not needless and "object" not in table:
            self.add(
                "no object is patched",
                "",
                hint='Add [[object]] with name = "vmlinux" and functions = [...].',
            )
        lines = [
            n for n, line in enumerate(self.file.lines, 1) if re.match(r"\s*\[\[object\]\]", line)
        ]
        objects: list[PatchedObject] = []
        for number, entry in enumerate(tables):
            line = lines[number] if number < len(lines) else 1
            if not isinstance(entry, dict):
                self.add_at(line, "object is not a table", hint="Begin it with [[object]].")
                continue
            read = self.patched_object(entry, line)
            if read is None:
                continue
            if any(read.name == other.name for other in objects):
                self.add_at(
                    line,
                    f"object {read.name!r} is given twice",
                    why="The kernel takes one klp_object for each object.",
                    hint="Put all its functions into one.",
                )
            objects.append(read)
        return tuple(objects)

    def patched_object(self, entry: Mapping[str, Any], line: int) -> PatchedObject | None:
        self.known_keys(entry, _OBJECT_KEYS, "object", line)
        if "name" not in entry:
            self.add_at(line, "object has no name", hint='Write name = "vmlinux", or a module.')
            return None
        name = self.value(entry, "name", str, "", line)
        if not name:
            self.add_at(line, "object has an empty name")
            return None
        # A path as find(1) shows it is as good as the name.
        name = object_name(name)
        try:
            check_object(name)
        except KlpError as error:
            problem = error.problems[0]
            self.add_at(line, problem.what, why=problem.why, hint=problem.hint)
        functions = self.functions(entry, name, line)
        callbacks = self.callbacks(entry, line)
        if not entry.get("functions") and not callbacks and not self.patches:
            self.add_at(line, f"object {name!r} has neither functions nor callbacks")
        if functions and self.patches:
            self.add_at(
                self.file.line_of_key("functions", line),
                f"object {name!r} has functions, and patches make this livepatch",
                why="Which functions a patch changes is found by compiling it.",
                hint="Take the key functions out; callbacks may stay.",
            )
        return PatchedObject(name, functions, callbacks, f"{self.path}:{line}")

    def functions(self, entry: Mapping[str, Any], name: str, line: int) -> tuple[Function, ...]:
        functions: list[Function] = []
        names: list[str] = []
        for item in self.value(entry, "functions", list, [], line):
            if not isinstance(item, dict):
                what = f"function of {name!r} is not a table"
                at = self.file.line_of_key("functions", line)
                self.add_at(at, what, hint='Write { old = "f", new = "livepatch_f" }.')
                continue
            at, old = line, item.get("old")
            if isinstance(old, str):
                at = self.file.line_of(old, line, names.count(old))
                names.append(old)
            self.known_keys(item, _FUNCTION_KEYS, "function", at)
            for key in ("old", "new"):
                if key not in item:
                    self.add_at(at, f"function of {name!r} has no {key!r}")
            read = Function(
                self.value(item, "old", str, "", at),
                self.value(item, "new", str, "", at),
                self.value(item, "sympos", int, 0, at),
                f"{self.path}:{at}",
            )
            self.check_function(read, item, at)
            for other in functions:
                if (read.old, read.sympos or 1) == (other.old, other.sympos or 1) and read.old:
                    self.add_at(at, f"function {read.old!r} of {name!r} is given twice")
            functions.append(read)
        return tuple(functions)

    def check_function(self, read: Function, item: Mapping[str, Any], at: int) -> None:
        if "old" in item and isinstance(item["old"], str):
            self.check_symbol("old", read.old, _SYMBOL, at)
        if "new" in item and isinstance(item["new"], str):
            self.check_symbol("new", read.new, _IDENTIFIER, at)
        if not 0 <= read.sympos <= SYMPOS_MAX:
            self.add_at(
                at,
                f"position {read.sympos} of {read.old!r} is "
                + ("negative" if read.sympos < 0 else "larger than the kernel counts"),
                hint="0 for a unique name, else its place from 1 in symbols.klp.",
            )
        if read.old and read.old == read.new:
            self.add_at(
                at,
                f"function {read.old!r} is to replace itself",
                why="The livepatch could not refer to the original any more.",
                hint=f"Call the new one livepatch_{read.old}.",
            )

    def callbacks(self, entry: Mapping[str, Any], line: int) -> dict[str, str]:
        table = self.value(entry, "callbacks", dict, {}, line)
        at = self.file.line_of_key("callbacks", line)
        self.known_keys(table, CALLBACKS, "callbacks", at)
        read = {}
        for key in CALLBACKS:
            if key in table:
                read[key] = self.value(table, key, str, "", at)
                if isinstance(table[key], str):
                    self.check_symbol(key, read[key], _IDENTIFIER, at)
        return read

    def check_symbol(self, key: str, name: str, pattern: re.Pattern[str], at: int) -> None:
        if not pattern.fullmatch(name):
            self.add_at(at, f"{key} = {shown(name)} is not the name of a function")
        elif len(name) > SYMBOL_NAME_MAX:
            self.add_at(
                at,
                f"{key} = {name[:40]!r}... is too long, {len(name)} bytes",
                why=f"The kernel looks up names of at most {SYMBOL_NAME_MAX} bytes.",
            )
