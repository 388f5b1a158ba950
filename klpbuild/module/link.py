"""Link objects into a module by kbuild's own modpost and linker script.

kbuild takes finished objects as ``*_shipped`` files.  What it does not find in
``Module.symvers`` stays undefined: the conversion decides about it.

Debug data is left out by the linker (``LDFLAGS_MODULE``), before the conversion:
binutils' strip and objcopy damage a converted module, and without debug data the
build id, and so every byte, is the same in every directory.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from klpbuild.compiler.driver import compile_source
from klpbuild.compiler.flags import compile_command
from klpbuild.compiler.log import BuildLog
from klpbuild.elf.constants import SHN_UNDEF, STB
from klpbuild.elf.modinfo import modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.files.whole import remove_tree, write_file
from klpbuild.kernel.cache import UNFIT_FOR_MAKE
from klpbuild.kernel.config import Config
from klpbuild.kernel.kbuild import run_make
from klpbuild.kernel.tree import Kernel
from klpbuild.module.freed import check_freed
from klpbuild.module.relink import HERE, Linker
from klpbuild.names import VMLINUX, object_name
from klpbuild.symbols.symvers import Exports

# modpost's and kbuild's words about what livepatches always do.
_EXPECTED = re.compile(
    r"WARNING: modpost: .* undefined!$"
    r"|WARNING: modpost: suppressed \d+ unresolved symbol warnings"
    r"|WARNING: Module\.symvers is missing"
    r"|WARNING: modpost: missing MODULE_DESCRIPTION"
    r"|Skipping BTF generation"
)

#: Diagnostics; a file's name may have these words too.
_NOTABLE = re.compile(r"\b(warning|error):", re.IGNORECASE)


def link_module(
    kernel: Kernel,
    module: str,
    objects: Sequence[Path],
    directory: Path,
    log: BuildLog | None = None,
    *,
    strip: bool = True,
    warn: Callable[[str], None] = lambda _: None,
) -> Path:
    """Link objects into a module, their unresolved symbols left undefined.

    :param module: the module's file name without ``.ko``, such as ``livepatch-meminfo``.
    :param objects: compiled, in the order of the link; at least one.
    :param directory: gets the module, and ``kbuild/`` with kbuild's own files.
    :param log: gets kbuild's whole output.
    :param strip: whether debug data is left out.
    :param warn: is called with each line of kbuild's output that the user should see.
    :returns: the path of the linked, unconverted ``.ko``.
    :raises KlpError: for symbols that two objects define, for what is used when it is freed,
        with kbuild's own lines when it fails, and when the module would lack what the kernel
        needs to unwind and trace it.
    """
    if not objects:
        raise ValueError("a module needs an object")
    elves = [ElfFile.read(path) for path in objects]
    _check_defined_once(elves)
    check_freed(elves)
    with _workshop(directory) as workshop:
        imports = missing_namespaces(elves, Exports.read(kernel.module_symvers))
        if imports:
            objects = [*objects, _compile_imports(kernel, module, imports, directory, log)]
        linked = workshop / f"{module}.ko"
        said = _link(kernel, module, objects, workshop, log.path if log else None, strip)
        if not linked.is_file():
            raise KlpError("kbuild linked no module", where=str(linked), why=said.strip())
        _check_linked(kernel, ElfFile.read(linked), elves)
        for line in _warnings(said):
            warn(line)
        output = directory / linked.name
        write_file(output, linked.read_bytes())
    return output


def _link(
    kernel: Kernel,
    module: str,
    objects: Sequence[Path],
    workshop: Path,
    log: Path | None,
    strip: bool,
) -> str:
    """Link by the commands that kbuild is known to run, else by kbuild; return what they print."""
    # What kbuild compiles itself (NAME.mod.c) must not tell the machine's directories.
    maps = [f"-ffile-prefix-map={path}=." for path in (HERE, kernel.build.resolve())]
    flags = " ".join(filter(None, [kernel.toolchain.kcflags, *maps]))
    variables = {"KBUILD_MODPOST_WARN": "1", "KCFLAGS": flags}
    if strip:
        variables["LDFLAGS_MODULE"] = "--strip-debug"
    linker = Linker(kernel, tuple(variables.items()))
    said = linker.link(module, objects, workshop, log)
    if said is None:
        remove_tree(workshop)
        workshop.mkdir()
        _lay_out(workshop, module, objects)
        variables["KCFLAGS"] = flags.replace(HERE, str(workshop.absolute()))
        said = run_make(kernel, workshop, "modules", variables=variables, log=log)
        if not _warnings(said):
            linker.learn(module, objects, workshop)
    return said


@contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    """Make an empty directory for kbuild: elsewhere, if make cannot take the name of this one."""
    if UNFIT_FOR_MAKE.search(str(directory.absolute())):
        with tempfile.TemporaryDirectory(prefix="klpbuild-link-") as name:
            yield Path(name)
        return
    remove_tree(directory / "kbuild")
    (directory / "kbuild").mkdir(parents=True)
    yield directory / "kbuild"


#: What to do about the names that ``module_init()`` and ``module_exit()`` define.
_OF_MODULES = dict.fromkeys(
    ("init_module", "cleanup_module"),
    "Generated tables start and end the livepatch.  Take module_init() and module_exit() out, and"
    " do in callbacks\nwhat they did: callbacks = { pre_patch = ..., post_unpatch = ... } of an"
    " object in livepatch.toml.",
)


def _check_defined_once(objects: Sequence[ElfFile]) -> None:
    problems = Problems()
    first: dict[str, ElfFile] = {}
    for elf in objects:
        for symbol in elf.symbol_list:
            if symbol.bind != STB.GLOBAL or symbol.st_shndx == SHN_UNDEF:
                continue
            other = first.setdefault(symbol.name, elf)
            if other is not elf:
                problems.add(
                    f"symbol {symbol.name!r} is defined twice",
                    where=elf.name,
                    why=f"It is defined by {other.name}, too.",
                    hint=_OF_MODULES.get(
                        symbol.name, "Make one of them static, or give it another name."
                    ),
                )
    problems.check()


def missing_namespaces(objects: Sequence[ElfFile], exports: Exports) -> tuple[str, ...]:
    """List the symbol namespaces that a module of these objects must import and does not, sorted.

    The kernel refuses a module that uses a symbol of vmlinux without importing its
    namespace (kernel/module/main.c, verify_namespace_is_imported).  A symbol of a
    module becomes a livepatch symbol, which is not asked for a namespace.
    """
    needed, imported = set[str](), set[str]()
    for elf in objects:
        for symbol in elf.symbol_list:
            export = exports.find(symbol.name) if symbol.st_shndx == SHN_UNDEF else None
            if export is not None and export.namespace and export.owner == VMLINUX:
                needed.add(export.namespace)
        imported.update(modinfo(elf).get("import_ns", ()))
    return tuple(sorted(needed - imported))


def _compile_imports(
    kernel: Kernel, module: str, namespaces: Sequence[str], directory: Path, log: BuildLog | None
) -> Path:
    lines = [f'MODULE_INFO(import_ns, "{namespace}");' for namespace in namespaces]
    source = directory / "imports.c"
    write_file(source, "\n".join(["#include <linux/module.h>", *lines, ""]).encode())
    output, name = source.with_suffix(".o"), object_name(module)
    return compile_source(kernel, source, output, module_name=name, log=log, generated=True).output


def _lay_out(directory: Path, module: str, objects: Sequence[Path]) -> None:
    """Write a module directory as kbuild expects it."""
    parts = []
    for number, path in enumerate(objects):
        # Numbered, so that none is called like the module or like another one.
        part = f"part{number}"
        shutil.copyfile(path, directory / f"{part}.o_shipped")
        # modpost reads the command of each part, for the module's source version.
        (directory / f".{part}.o.cmd").write_text("")
        parts.append(f"{part}.o")
    # kbuild's own rule is for $(obj)/%, which make does not match where $(obj) is "." (v7.x).
    rule = "$(obj)/part%.o: $(obj)/part%.o_shipped\n\t@cat $< > $@\n"
    makefile = f"obj-m := {module}.o\n{module}-y := {' '.join(parts)}\n{rule}"
    (directory / "Makefile").write_text(makefile)


def _warnings(output: str) -> tuple[str, ...]:
    lines = (line.strip() for line in output.splitlines())
    return tuple(
        line
        for line in dict.fromkeys(lines)
        if _NOTABLE.search(line) and not _EXPECTED.search(line)
    )


def _check_linked(kernel: Kernel, linked: ElfFile, objects: Sequence[ElfFile]) -> None:
    """Refuse a module that has lost what the objects had, or that objtool did not see."""
    needed = {
        name
        for name in kernel.arch.entry_sections
        if any(elf.section(name) is not None for elf in objects)
    }
    command = compile_command(kernel)
    objtool = command.objtool is not None or command.objtool_at_link
    if objtool and Config.read(kernel.config).enabled("UNWINDER_ORC"):
        needed.add(".orc_unwind")
    for name in sorted(needed):
        if linked.section(name) is None:
            raise KlpError(
                f"the linked module has no section {name}",
                where=linked.name,
                why="Without it the kernel can neither trace nor reliably unwind the livepatch.",
                hint="Its objects were not compiled by this kernel's rules.",
            )
