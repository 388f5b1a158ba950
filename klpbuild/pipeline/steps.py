"""Functions of the steps: compile, link, convert, check, sign, draw, boot."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import klpbuild
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import RefusedError, Report, Severity
from klpbuild.compiler.driver import compile_source as compile_with_kernel_flags
from klpbuild.compiler.entry import check_new_functions
from klpbuild.compiler.log import BuildLog
from klpbuild.convert.converter import Conversion
from klpbuild.convert.converter import convert as convert_elf
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problem, Problems
from klpbuild.extract.sizes import PROBE, EntrySizes
from klpbuild.files.records import from_json, read_output, read_record, sealed
from klpbuild.files.whole import write_file
from klpbuild.graph.build import build_graph
from klpbuild.graph.queries import neighbourhood
from klpbuild.graph.tables import read_entries, read_patches
from klpbuild.graph.tables import read_livepatch as read_tables
from klpbuild.graph.write import TOO_LARGE_TO_DRAW, write_all
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.kernel.kbuild import cross_prefix
from klpbuild.kernel.modules import builtin_modules
from klpbuild.kernel.tree import FILTER_FUNCTIONS, Kernel
from klpbuild.module.link import link_module
from klpbuild.module.livepatch import Function
from klpbuild.module.old_functions import (
    check_objects,
    check_old_functions,
    copied_state,
    found_in,
    meant_by,
    replaced_by,
)
from klpbuild.module.owntables import no_tables, two_tables
from klpbuild.module.places import SourcePlaces
from klpbuild.module.prototypes import (
    Replacement,
    check_callbacks,
    check_declarations,
    check_prototypes,
)
from klpbuild.module.structures import (
    TYPE_FLAGS,
    KernelTypes,
    Source,
    check_structures,
    defines_types,
)
from klpbuild.module.tables import tables_source
from klpbuild.module.variables import check_variables
from klpbuild.names import object_name, symbol_name_max
from klpbuild.package.signing import Signer, sign, signature_of
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.table import Said
from klpbuild.request.chosen import Chosen
from klpbuild.resolve.fate import Decision, Fate, Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.symvers import Exports
from klpbuild.terminal.stopwatch import measured

_ENABLE = "klp_enable_patch"
#: What klp-ccp writes where the kernel that it read was configured otherwise.
_OTHER_CONFIGURATION = '#error "klp-ccp: '

#: The last reports of `klpbuild.check` in this process, by cache key: each has what it read.
_CHECKED: dict[object, Report] = {}
_CHECKED_MAX = 4


def compile_source(
    build: Build,
    source: Path,
    output: Path,
    said: Said,
    *,
    generated: bool = False,
    text: str = "",
    flags: Sequence[str] = (),
) -> None:
    """Compile one source; the user's files that it reads are recorded beside the object.

    The kernel's identity stands for its headers, klpbuild's for its own.

    :param said: gets the compiler's warnings, and the user's files, relative to the working
        directory.
    :param generated: whether klpbuild wrote the source, `text` a part of it that may differ: see
        `klpbuild.compiler.driver.compile_source`.
    :param flags: come after the kernel's.
    :raises KlpError: with the compiler's lines.
    """
    if defines_types(source.read_bytes()):
        flags = (*flags, *TYPE_FLAGS)
    try:
        compilation = compile_with_kernel_flags(
            build.kernel,
            source,
            output,
            module_name=build.chosen.module.replace("-", "_"),
            extra_flags=flags,
            log=build.log,
            generated=generated,
            text=text,
        )
    except KlpError as error:
        if _OTHER_CONFIGURATION in str(error):
            raise KlpError(
                "is made for a kernel of another configuration",
                where=str(source),
                why=error.problems[0].why,
                hint="Make it again for this kernel.",
            ) from error
        raise
    if compilation.said:
        said.warnings.append(f"{source}: {compilation.said}")
    here = Path.cwd()
    tree = build.kernel.build
    trees = [tree, tree / "source", output.parent, Path(klpbuild.__file__).parent]
    stood_for = [tree.resolve() for tree in trees]
    said.read += (
        path.relative_to(here)
        for path in compilation.dependencies
        if path.is_relative_to(here) and not any(path.is_relative_to(tree) for tree in stood_for)
    )
    lines = [f"{output}:", *(f"  {_escaped(path)}" for path in said.read)]
    write_file(output.with_suffix(".d"), (" \\\n".join(lines) + "\n").encode())


def _escaped(path: Path) -> str:
    return re.sub(r"([\s\\#])", r"\\\1", str(path)).replace("$", "$$")


def write_tables(build: Build) -> None:
    """Write the C source with a livepatch's tables and init function."""
    write_file(build.paths.tables, tables_source(build.livepatch(), build.kernel).encode())


def link(build: Build, objects: Sequence[Path], warn: Callable[[str], None]) -> None:
    """Link the objects to a module that is not converted yet.

    :param warn: gets what objtool and modpost remark.
    :raises KlpError: when kbuild fails.
    """
    kernel, name, output = build.kernel, build.chosen.module, build.paths.linked
    linked = link_module(
        kernel, name, objects, output.parent, build.log, strip=build.strip, warn=warn
    )
    if linked != output:
        raise AssertionError(f"{output} was not linked")


def check_functions(chosen: Chosen, objects: Sequence[Path]) -> None:
    """Check that the functions that a livepatch names are in its objects.

    :raises KlpError: when one is not, or cannot be traced.
    """
    problems = Problems()
    functions = [
        (function.new, function.where)
        for patched in chosen.livepatch.objects
        for function in patched.functions
    ]
    callbacks = [
        (callback, patched.where)
        for patched in chosen.livepatch.objects
        for callback in patched.called
    ]
    elves = [ElfFile.read(path) for path in objects]
    _check_enabled(chosen, elves)
    check_new_functions(elves, functions, problems, callbacks=callbacks)
    problems.check()


def _check_enabled(chosen: Chosen, objects: Sequence[ElfFile]) -> None:
    """Refuse unless one object enables a livepatch: that of the tables, if generated."""
    callers = [elf for elf in objects if any(s.name == _ENABLE for s in elf.symbol_list)]
    if chosen.livepatch.own_tables:
        if not callers:
            raise no_tables(chosen.directory)
    elif len(callers) > 1:
        raise two_tables(str(chosen.file), f"{Path(callers[0].name).stem}.c")


def entry_sizes(kernel: Kernel, log: BuildLog) -> EntrySizes:
    """Measure the entries of this kernel's special tables by its headers.

    :raises KlpError: when the kernel's headers do not compile.
    """
    digest = hashlib.sha256(PROBE.encode()).hexdigest()[:16]
    probe = kernel.cache / f"entry-sizes-{digest}.o"
    kept = read_record(probe, lambda data: EntrySizes.from_probe(ElfFile(data, str(probe))))
    if kept is not None:
        return kept
    source = probe.with_suffix(".c")
    write_file(source, PROBE.encode())
    compile_with_kernel_flags(kernel, source, probe, module_name="klpbuild", log=log)
    return EntrySizes.from_probe(ElfFile.read(probe))


def convert(build: Build, own: Sequence[Path], said: Said) -> Report:
    """Convert a linked module and write it, with a report of each relocation's fate.

    What it replaces is checked against the kernel; without a description the module's own
    tables say what that is.

    :param own: what the compiler made of its C files, in their order.
    :param said: gets what could not be checked or compared.
    :returns: what `klpbuild.check` says of it.
    :raises KlpError: with every reference that cannot be resolved, and every function that
        the kernel does not have or cannot redirect.
    :raises RefusedError: when the kernel would refuse the module.
    """
    kernel, chosen, paths = build.kernel, build.for_kernel(), build.paths
    linked, output, symbols = paths.linked, paths.module, paths.symbols
    functions = build.livepatch().objects
    sources = list(zip(chosen.livepatch.sources, own, strict=True))
    database = SymbolDatabase.read(symbols)
    elf = ElfFile.read(linked)
    patches = read_patches(elf)
    pairs = [(patched.name, function) for patched in functions for function in patched.functions]
    if not pairs:
        pairs = [
            (p.object, Function(p.function, p.new, p.sympos, linked.name))
            for p in patches
            if p.function
        ]
    problems = Problems()
    objects = {p.object: linked.name for p in patches} | {p.name: p.where for p in functions}
    builtin = builtin_modules(kernel.build, kernel.image, kernel.release)
    unchecked = (
        *check_objects(objects, database.objects, builtin, problems),
        *check_old_functions(pairs, database, entry_points(kernel, database), problems),
    )
    said.warnings += (f"{linked.name}: not checked {each}" for each in unchecked)
    compared = [
        Source(
            path,
            each,
            replaced_by(each, pairs, database),
            chosen.accepted_layouts(path),
            chosen.directory,
        )
        for path, each in ((path, ElfFile.read(made)) for path, made in sources)
    ]
    for source in compared:
        copied = copied_state(source.object, source.replaced, database)
        said.warnings += (f"{source.path}: {each}" for each in copied)
    check_callbacks(compared, functions, problems)
    side = KernelTypes(kernel)
    replacements = [
        Replacement(old, function.new)
        for owner, function in pairs
        for old in found_in(owner, function, database)
    ]
    uncompared = (
        *check_structures(side, compared, problems),
        *check_prototypes(side, compared, replacements, problems),
    )
    exports = Exports.read(kernel.module_symvers)
    patched = frozenset(p.object for p in patches)
    resolver = Resolver(database, exports, patched, Dependencies(kernel.modules))
    try:
        with problems.collect():
            name_max = symbol_name_max(kernel.version[:2])
            conversion = convert_elf(elf, resolver, read_entries(elf), name_max)
            meant = meant_by(conversion.decisions, database, exports)
            check_declarations(side, compared, meant, problems)
            uncompared = (*uncompared, *check_variables(side, compared, meant, problems))
        problems.check()
        checked = _checked(conversion.data, output, kernel, symbols)
    except KlpError as error:
        SourcePlaces(elf, sources, f"{cross_prefix(kernel)}addr2line", str(output)).name(error)
        raise
    said.warnings += (f"{linked.name}: not compared {each}" for each in uncompared)
    said.warnings += (f"{linked.name}: not checked {each}" for each in conversion.unchecked)
    write_file(paths.relocations, _report(conversion).encode())
    write_file(output, conversion.data)
    return checked


def checked_before(data: bytes, kernel: Kernel, symbols: Path) -> Report | None:
    """Return, once, the report on a module that this process converted; None for another."""
    return _CHECKED.pop(_state(data, kernel, symbols), None)


def _state(data: bytes, kernel: Kernel, symbols: Path) -> object:
    status = symbols.stat()
    return hashlib.sha256(data).digest(), kernel, symbols, status.st_ino, status.st_mtime_ns


@measured("check")
def _checked(data: bytes, output: Path, kernel: Kernel, symbols: Path) -> Report:
    """Check a converted module; refuse it if the kernel would, or worse.

    :raises RefusedError: when the kernel would refuse the module, or worse.
    """
    checked = check_bytes(data, output.name, KernelSide(kernel, symbols))
    for oldest in list(_CHECKED)[: 1 - _CHECKED_MAX]:
        _CHECKED.pop(oldest, None)
    _CHECKED[_state(data, kernel, symbols)] = checked
    problems = [
        Problem(
            f"{finding.what} [{finding.rule.identifier}]",
            ":".join(part for part in (str(output), finding.where) if part),
            finding.rule.why,
            finding.hint,
        )
        for finding in checked.at_least(Severity.ERROR)
    ]
    if problems:
        error = RefusedError.together(problems)
        error.report = checked
        raise error
    return checked


def note_digest(module: Path, output: Path) -> None:
    """Write the digest of a module that was checked, as ``sha256sum`` does."""
    digest = hashlib.sha256(module.read_bytes()).hexdigest()
    write_file(output, f"{digest}  {module.name}\n".encode())


def sign_checked(
    kernel: Kernel, module: Path, digest: Path, symbols: Path, signer: Signer, output: Path
) -> None:
    """Sign the module that was checked, and check once more what is signed.

    :param digest: what `note_digest` wrote.
    :param symbols: the kernel's symbols.klp.
    :raises KlpError: when it is another module now, or cannot be signed.
    :raises RefusedError: when the kernel would refuse it.
    """

    def examine(signed: bytes) -> None:
        own, _ = signature_of(signed, str(output)) or (signed, b"")
        check_unchanged(own, module, digest)
        _checked(signed, output, kernel, symbols)

    sign(module, signer, output, examine)


def check_unchanged(data: bytes, module: Path, digest: Path) -> None:
    """Compare a module with what was checked: a hand may have changed it since.

    :param digest: what `note_digest` wrote.
    :raises KlpError: when they differ.
    """
    noted = read_output(digest, lambda text: text.decode().split()[0])
    if hashlib.sha256(data).hexdigest() != noted:
        raise KlpError(
            "is not the module that was checked",
            where=str(module),
            why=f"Its SHA-256 is not the one in {digest}.",
            hint="Remove it, and build again.",
        )


def entry_points(kernel: Kernel, database: SymbolDatabase) -> EntryPoints:
    """Find the functions of a kernel that can be livepatched."""
    return EntryPoints(
        database,
        filter_functions=kernel.filter_functions or sealed(kernel.cache / FILTER_FUNCTIONS),
        vmlinux=kernel.vmlinux,
        modules=kernel.modules,
    )


def _report(conversion: Conversion) -> str:
    counts: Counter[Decision] = Counter()
    for relocation in conversion.relocations:
        counts[relocation.decision] += relocation.count
    rows = [
        {
            "symbol": decision.target.symbol if decision.target else decision.reference.name,
            "fate": decision.fate.value,
            "why": decision.why,
            "gate": decision.gate,
            "owner": decision.target.owner if decision.target else "",
            "sympos": decision.target.sympos if decision.target else None,
            "relocations": counts[decision],
        }
        for decision in conversion.decisions
    ]
    return json.dumps(rows, indent=1) + "\n"


def summary(report: Path) -> str:
    """Count the references by their fate, in one line."""
    rows = read_output(report, partial(from_json, tuple[Mapping[str, object], ...]))
    found = [row for row in rows if row.get("fate") == Fate.LIVEPATCH.value]
    livepatch = {(row.get("owner"), row.get("symbol"), row.get("sympos")) for row in found}
    ordinary = len(rows) - len(found)
    plural = "" if len(livepatch) == 1 else "s"
    return f"{len(livepatch)} livepatch symbol{plural}, {ordinary} ordinary"


def write_graph(build: Build) -> None:
    """Write the reference graph of one livepatch."""
    module = build.paths.module
    graph = build_graph(
        Exports.read(build.kernel.module_symvers),
        livepatches=[read_tables(ElfFile.read(module), module.name)],
        database=SymbolDatabase.read(build.paths.symbols),
    )
    near = neighbourhood(graph, [object_name(module.name)])
    written = write_all(near, module.parent, module.stem)
    for output in build.paths.graphs:
        if output not in written:
            write_file(output, TOO_LARGE_TO_DRAW)


def boot(
    kernel: Kernel, modules: Sequence[Path], watch: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """Boot the kernel with the modules; what they patch is loaded before, and once more after.

    :returns: what changes in the watched files, as lines, and whether all went well.
    """
    from klpbuild.vm.redirected import targets_of
    from klpbuild.vm.transcript import transcript
    from klpbuild.vm.trial import Wanted, boot_livepatch

    further = [object_name(path.name) for path in kernel.further]
    targets = targets_of(kernel, modules, ())
    modprobe = [name for name in targets if name in further]  # these must be there
    targets = [name for name in targets if name not in further]
    wanted = Wanted(modules, watch, modprobe, targets=targets)
    trial = boot_livepatch(kernel, wanted)
    return tuple(transcript(trial)), trial.passed
