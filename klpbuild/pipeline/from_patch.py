"""Build a livepatch module from source patches, without building the kernel."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from klpbuild.compiler.log import BuildLog
from klpbuild.elf.constants import STB
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.extract.extraction import OnlyStartError, UnchangedError, extract
from klpbuild.extract.linkage import link, new_globals
from klpbuild.extract.moves import settle_moved
from klpbuild.extract.part import Part
from klpbuild.extract.result import Extraction, LeftOut
from klpbuild.extract.sharing import local_variables, shared_otherwise
from klpbuild.extract.sizes import EntrySizes
from klpbuild.extract.written import WORDS
from klpbuild.files.given import check_file_names
from klpbuild.files.kept import content_key, kept_or_made
from klpbuild.files.whole import write_file
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.kernel.prepare import build_environment
from klpbuild.kernel.tree import Kernel
from klpbuild.module.accepted import NOTHING, Accepted
from klpbuild.module.livepatch import Function, Livepatch, PatchedObject, Words
from klpbuild.module.states import allocates
from klpbuild.names import VMLINUX
from klpbuild.patch.effect import Effect, patch_effects, patches_of
from klpbuild.patch.fix import Fix, Standing, faults
from klpbuild.patch.layout import may_declare_variables
from klpbuild.patch.pair import CompiledPatch, ObjectPair, compile_patch
from klpbuild.patch.versions import check_versions
from klpbuild.pipeline import steps
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.callbacks import check_callbacks, idle_notes, nothing_runs, without_idle
from klpbuild.pipeline.extracted import Extracted
from klpbuild.pipeline.homes import Homes, new_symbol
from klpbuild.pipeline.joined import set_apart
from klpbuild.pipeline.keptparts import KeptParts
from klpbuild.pipeline.keys import ask_keys_of_modules
from klpbuild.pipeline.paths import Paths
from klpbuild.pipeline.startup import check_left_out
from klpbuild.pipeline.table import Said, Step, Tell, livepatch_steps, run_steps, symbols_step
from klpbuild.proof.callers import check_callers
from klpbuild.proof.keys import key_policy
from klpbuild.proof.prototypes import check_prototypes
from klpbuild.proof.references import (
    LateNames,
    OwnNames,
    decide_references,
    name_references,
    rename_undefined,
)
from klpbuild.request.chosen import Chosen
from klpbuild.resolve.fate import Decision, Fate, Resolver
from klpbuild.run import run
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from klpbuild.terminal.progress import Progress
from klpbuild.terminal.stopwatch import measured

#: Number of objects from which on progress is shown.
MANY_OBJECTS = 10

#: ftrace returns to a new function, so that it needs no landing place for indirect jumps
#: (arch/x86/kernel/ftrace_64.S, ftrace_regs_caller), and gcc makes none in a function
#: whose address its file does not take.
_NO_ENDBR = re.compile(r"\bfunctions_\w+\+0x[0-9a-f]+: data relocation to !ENDBR: ")

#: Symbols that the linked livepatch defines itself.
_OF_EVERY_MODULE = frozenset(("__this_module", "init_module", "cleanup_module"))


@dataclass(frozen=True)
class _Builder:
    """State that the steps for one livepatch share."""

    build: Build
    compiled: CompiledPatch
    resolver: Resolver
    homes: Homes

    def changes(self, sizes: EntrySizes, pair: ObjectPair) -> frozenset[str] | None:
        """Find the functions that a livepatch would take from an object that changed.

        :returns: None if it takes nothing; an empty set if that cannot be told.
        """
        try:
            part = Part(
                number=0,
                owner=pair.owner,
                where=pair.where,
                original=ElfFile.read(pair.original),
                patched=ElfFile.read(pair.patched),
                source=pair.source,
                sizes=sizes,
                accepted_data=self.build.chosen.accepted.data,
            )
            extraction = extract(
                part, self.build.kernel.arch, key_policy(self.resolver, pair.owner)
            )
        except (UnchangedError, OnlyStartError):
            return None
        except KlpError:  # it changes more than a livepatch can
            return frozenset()
        if not (extraction.changed or extraction.globals or extraction.words):
            return None
        return frozenset(changed.name for changed in extraction.changed)

    def finish_object(
        self,
        pair: ObjectPair,
        extraction: Extraction,
        decisions: dict[str, Decision],
        late: LateNames,
    ) -> Path:
        """Run objtool over the extracted object and give its symbols their names for the link."""
        number = extraction.number
        path = self.build.paths.work / "extracted" / f"{number}-{Path(pair.target).name}"
        elf = ElfFile(self._objtool(pair, extraction.object, path), str(path))
        runs_late = self.compiled.tree.objtool_runs_late
        out = name_references(elf, decisions, late if runs_late else None)
        by_name = {s.name: s for s in elf.symbol_list if s.is_defined}
        lists = (WORDS,) if extraction.words else ()
        for name in (*(changed.symbol for changed in extraction.changed), *lists):
            symbol = by_name[name]
            out.add_symbol(
                new_symbol(name, number),
                bind=STB.GLOBAL,
                type=symbol.type,
                st_shndx=symbol.st_shndx,
                st_value=symbol.st_value,
                st_size=symbol.st_size,
            )
        finished = path.with_name(f"{path.stem}.named.o")
        out.write(finished)
        return finished

    def _objtool(self, pair: ObjectPair, data: bytes, path: Path) -> bytes:
        """Run objtool over an object, once for its content, unless it runs later.

        :param path: where it reads and writes the object.
        """
        tree = self.compiled.tree
        if not tree.objtool or tree.objtool_runs_late:
            return data
        key = content_key(shlex.join(tree.objtool), data)
        kept = tree.kept / "extracted" / f"{pair.target[:-2]}.objtool"
        return kept_or_made(kept, key, lambda: self._run_objtool(pair, data, path), bytes, bytes)

    def _run_objtool(self, pair: ObjectPair, data: bytes, path: Path) -> bytes:
        write_file(path, data)
        command = [*self.compiled.tree.objtool, str(path.resolve())]
        done = run(command, build_environment(), self.compiled.tree.build)
        said = done.stdout + done.stderr
        self.build.log.command(command, self.compiled.tree.build, output=path, said=said)
        if done.returncode or "warning" in said:
            raise KlpError(
                "objtool does not accept the extracted code",
                where=pair.target,
                why=said.strip(),
                hint=f"The command is in {self.build.log.path}.",
            )
        return path.read_bytes()


def _read_pair(
    compiled: CompiledPatch, sizes: EntrySizes, accepted: Accepted, number: int, pair: ObjectPair
) -> Part:
    """Read an object before and after the patches, references to variables by their symbols."""
    pairs = [ElfFile.read(path) for path in (pair.original, pair.patched)]
    sections = shared_otherwise(*pairs)
    for patched, elf in enumerate(pairs):
        if names := local_variables(elf, sections):
            pairs[patched] = compiled.compiler.with_names(pair.command, bool(patched), elf, names)
    made_from = [f for f in compiled.patched.files if f.path in {pair.source, *pair.files}]
    return Part(
        number=number,
        owner=pair.owner,
        where=pair.where,
        original=pairs[0],
        patched=pairs[1],
        source=pair.source,
        sizes=sizes,
        types=lambda patched: compiled.variable_types(pair, patched),
        declares=any(map(may_declare_variables, made_from)),
        trees=(str(compiled.tree.source), str(compiled.compiler.shadow)),
        known=pair.known,
        accepted_data=accepted.data,
    )


def build_from_patches(
    kernel: Kernel,
    patches: Sequence[Path],
    name: str,
    build: Path,
    accepted: Accepted = NOTHING,
    keep_going: bool = False,
    tell: Tell = lambda step, said: None,
    begin: Callable[[Step], None] = lambda step: None,
) -> tuple[Path, Extracted]:
    """Build a livepatch from source patches.

    :param patches: applied in order.
    :param name: the livepatch's name, without ``livepatch-``.
    :param build: the kernel's directory of outputs.
    :param accepted: changes that would be refused.
    :param keep_going: whether patches may be left out that cannot be in a livepatch.
    :param tell: shows what each step has to say.
    :param begin: told of each step before it is done.
    :returns: the module, and what it was made from.
    :raises KlpError: with every reason why the patches cannot be made a livepatch.
    """
    check_file_names(patches)
    chosen = Chosen(patches[0].parent, Livepatch(name, (), accepted=accepted), tuple(patches))
    paths = Paths.below(build, chosen.module)
    order = Build(kernel, chosen, paths, BuildLog(build / "build.log"), keep_going=keep_going)
    first = symbols_step(kernel, paths.symbols)
    run_steps(livepatch_steps(order), build, tell, first=first, begin=begin)
    return paths.module, Extracted.read(paths.record)


def link_extracted(build: Build, made: Sequence[Path], told: Said) -> None:
    """Link extracted objects and those that were compiled; the module is not converted yet.

    :param made: those of C files of the livepatch's parts, and klpbuild's own.
    :param told: gets the compiler's warnings.
    """
    extracted, output = Extracted.restore(build.paths.record), build.paths.linked
    said: list[str] = []
    late = dict(extracted.late_names)
    if (chosen := build.for_kernel()).livepatch.sources:
        steps.check_functions(chosen, [*extracted.objects, *made])
    apart, back = set_apart(made, late)
    steps.link(build, [*extracted.objects, *apart], said.append)
    for names in filter(None, (late, back)):
        rename_undefined(ElfFile.read(output), names).write(output)
    said = [line for line in said if not _NO_ENDBR.search(line)]
    # KCFLAGS may make the compiler warn of what kbuild compiles itself, NAME.mod.c.
    compilers = [line for line in said if not re.search("objtool|modpost", line)]
    told.warnings += compilers
    if said := [line for line in said if line not in compilers]:
        raise KlpError(
            "objtool does not accept the extracted code", where=output.name, why="\n".join(said)
        )


def extract_patches(
    build: Build, patches: Sequence[Path], only: Collection[str] | None = None
) -> Extracted:
    """Compile what patches touch, before and after, and extract what changes.

    :param patches: some of the livepatch's, in their order.
    :param only: the kernel's objects to look at, as kbuild calls them; None for all.
    :raises KlpError: with every reason why the patches cannot be made a livepatch.
    """
    kernel, log, work = build.kernel, build.log, build.paths.work
    accepted, callbacks = build.chosen.accepted, build.chosen.callbacks
    work.mkdir(parents=True, exist_ok=True)
    progress = Progress("objects compiled before and after", least=MANY_OBJECTS)
    compiled = compile_patch(
        kernel, patches, work / "pair", log.note, progress, accepted.layouts, only
    )
    database = SymbolDatabase.read(build.paths.symbols)
    owners = frozenset(pair.owner for pair in compiled.pairs)
    exports = Exports.read(kernel.module_symvers)
    resolver = Resolver(database, exports, owners, Dependencies(kernel.modules))
    entries = steps.entry_points(kernel, database)
    sizes = steps.entry_sizes(kernel, log)
    problems = Problems()
    names = [patch.name for patch in patches]
    kept = KeptParts.of(compiled)
    read = cache(partial(_read_pair, compiled, sizes, accepted))
    with faults(problems, names):
        compiled = ask_keys_of_modules(
            compiled,
            read,
            lambda pair: key_policy(resolver, pair.owner),
            kept.branching,
        )
    problems.check()
    homes = Homes(kernel, compiled, resolver, entries, accepted.threads, log)
    builder = _Builder(build, compiled, resolver, homes)
    parts = [read(*each) for each in enumerate(compiled.pairs)]
    assert all(part.is_alone for part in parts)
    with faults(problems, names):
        link(parts, homes.is_weak, compiled.weak_in, homes.knows)
    with faults(problems, names):
        settle_moved(parts)
    added = new_globals(parts)
    extractions = []
    renewed: list[tuple[ObjectPair, str]] = []
    notices: list[str] = []
    left_out: list[tuple[ObjectPair, LeftOut]] = []
    for pair, part in zip(compiled.pairs, parts, strict=True):
        with faults(problems, patches_of(compiled, pair), pair.target):
            declared = check_versions(compiled.compiler, pair, accepted.layouts)
            policy = key_policy(resolver, pair.owner, added.__contains__)
            extraction = kept.extract(pair, part, kernel.arch, policy, declared)
            notices += extraction.notices
            left_out += [(pair, left) for left in extraction.left_out]
            if extraction.included or extraction.words:
                extractions.append((pair, extraction))
                renewed += [(pair, name) for name in sorted(declared)]
        part.forget()
    problems.check()
    check_callbacks(callbacks, extractions)
    new = sorted(name for _, extraction in extractions for name in extraction.globals)
    running, notes = without_idle(extractions, callbacks)
    used = {pair.target: [c.name for c in e.changed] for pair, e in running}
    effects = patch_effects(
        compiled, patches, used, partial(builder.changes, sizes), kernel.arch.kernel_name
    )
    idle = {name: effect.idle for name, effect in effects.items() if effect.idle is not None}
    check_left_out(compiled, left_out, running, idle)
    if not running and not any(patched.called for patched in callbacks):
        raise nothing_runs(compiled.patched.files[0].where, idle, new, notices)
    notes = [*notices, *notes, *idle_notes(idle)]
    renewed = [each for each in renewed if each[0].target in used]
    return _finish(builder, running, notes, effects, renewed)


@measured("prove and finish")
def _finish(
    builder: _Builder,
    extractions: Sequence[tuple[ObjectPair, Extraction]],
    notes: Sequence[str],
    effects: Mapping[str, Effect],
    renewed: Sequence[tuple[ObjectPair, str]],
) -> Extracted:
    """Finish the extracted objects for the link: decide references, run objtool, name symbols.

    :param renewed: exported functions that are declared otherwise, and so are new ones.
    """
    resolver = builder.resolver
    own = OwnNames.collect([(p.owner, p.where, e.globals) for p, e in extractions], resolver)
    taken = own.owners.keys() | _OF_EVERY_MODULE
    late = LateNames(lambda name: name in taken or resolver.exports.find(name) is not None)
    problems = Problems()
    functions: dict[str, list[Function]] = defaultdict(list)
    words: dict[str, list[Words]] = defaultdict(list)
    decisions: list[Decision] = []
    objects = []
    replaced: dict[str, set[int]] = defaultdict(set)
    for pair, extraction in extractions:
        with faults(problems, patches_of(builder.compiled, pair), pair.target):
            home = builder.homes.of(extraction.number)
            decided = decide_references(extraction, home, resolver, own, builder.homes.of)
            functions[pair.owner] += builder.homes.functions(extraction)
            if extraction.words:
                label = new_symbol(WORDS, extraction.number)
                written = tuple(f"{pair.target}:{name}" for name in extraction.written)
                words[pair.owner].append(Words(label, extraction.words, extraction.stays, written))
            objects.append(builder.finish_object(pair, extraction, decided, late))
            decisions += decided.values()
            names = (*(i.name for i in extraction.included), *(c.name for c in extraction.changed))
            located = (home.fidelity.find(name) for name in names)
            replaced[pair.owner].update(found.place for found in located if found is not None)
    problems.check()
    for pair, name in renewed:
        with faults(problems, patches_of(builder.compiled, pair), pair.target):
            check_callers(builder.build.kernel, pair.owner, name, pair.source, replaced)
    with faults(problems, effects):
        check_prototypes(builder.build.kernel, builder.compiled, extractions, builder.homes.places)
    problems.check()
    # New code for other objects is relocated when its own is loaded, even if that gets no function.
    gates = {d.gate for d in decisions if d.fate is Fate.LIVEPATCH} - {VMLINUX}
    patched = tuple(
        PatchedObject(owner, tuple(found), words=tuple(words[owner]))
        for owner, found in sorted(functions.items())
        if found or words[owner] or owner in gates
    )
    notes = [
        *builder.compiled.notes,
        *notes,
        *(
            f"{pair.source}: {name}() is declared otherwise: a new function, beside the kernel's"
            " own for modules that are built elsewhere"
            for pair, name in renewed
        ),
    ]
    return Extracted(
        tuple(objects),
        patched,
        tuple(sorted(late.names.items())),
        _report(extractions, notes),
        _references(decisions),
        _reasons(extractions),
        {d.target.format(): d.why for d in decisions if d.target is not None},
        {name: effect.idle for name, effect in effects.items() if effect.idle is not None},
        tuple(_fix(name, effect) for name, effect in effects.items()),
        any(allocates(ElfFile.read(path)) for path in objects),
    )


def _fix(name: str, effect: Effect) -> Fix:
    if effect.idle is not None:
        return Fix(name, Standing.IDLE, why=effect.idle.why)
    return Fix(name, Standing.IN, functions=effect.functions)


def _reasons(extractions: Sequence[tuple[ObjectPair, Extraction]]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for _, extraction in extractions:
        for changed in extraction.changed:
            reasons[new_symbol(changed.symbol, extraction.number)] = changed.why
        for included in extraction.included:
            reasons.setdefault(included.name, included.why)
    return reasons


def _report(
    extractions: Sequence[tuple[ObjectPair, Extraction]], notes: Sequence[str]
) -> tuple[str, ...]:
    lines = []
    for pair, extraction in extractions:
        lines.append(f"{pair.owner}: {pair.source}")
        lines += [f"  changed  {changed.name}: {changed.why}" for changed in extraction.changed]
        lines += [f"  new      {name}" for name in extraction.new]
        lines += [f"  removed  {name}" for name in extraction.removed]
    return tuple(dict.fromkeys([*lines, *(f"note: {note}" for note in notes)]))


def _references(decisions: Sequence[Decision]) -> tuple[str, ...]:
    lines = []
    for decision in sorted(decisions, key=lambda d: (d.fate.value, d.reference.name)):
        if decision.target is not None:
            what = f"gate {decision.gate}, {decision.target.format()}"
        else:
            what = decision.fate.value
        lines.append(f"{decision.reference.name}: {what} ({decision.why})")
    return tuple(dict.fromkeys(lines))
