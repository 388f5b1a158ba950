"""Whether a patch changes the version (CRC) of an exported symbol.

The version is computed from the types that a symbol's declaration reaches
(scripts/genksyms).  Modules that were built against the old one know those types;
when they change, replacing the code of one function is not enough.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.prepare import Log, PreparedTree, build_environment
from klpbuild.patch.pair import ObjectPair

# What EXPORT_SYMBOL leaves in an object before and since v6.4.
_EXPORTS = ("___ksymtab", "__ksymtab", ".export_symbol")
# genksyms writes assembler before v5.19, comments for modpost since.
_VERSION = re.compile(r"^(?:#SYMVER (\S+) |__crc_(\S+) = )(0x[0-9a-f]+)", re.MULTILINE)


def check_versions(tree: PreparedTree, pair: ObjectPair, shadow: Path, log: Log) -> None:
    """Refuse a patch that changes the version of a symbol which the object exports.

    :param shadow: the tree with the patched source.
    :raises KlpError: with the symbols; or when the versions cannot be computed.
    """
    genksyms = tree.build / "scripts" / "genksyms" / "genksyms"
    original = ElfFile.read(pair.original)
    if not any(s.name.startswith(_EXPORTS) for s in original.sections) or not genksyms.exists():
        return
    running = [_start(tree, pair, genksyms, place, log) for place in (None, shadow)]  # side by side
    before, after = (_finish(pair, *processes) for processes in running)
    changed = sorted(name for name, crc in before.items() if after.get(name, crc) != crc)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise KlpError(
            f"the version of exported symbols changes: {', '.join(changed[:5])}{more}",
            where=pair.source,
            why="A type that their declarations reach has another layout; modules in the "
            "running kernel know the old one.",
            hint="Keep the type as it is, and put new data into shadow variables.",
        )


def _start(
    tree: PreparedTree, pair: ObjectPair, genksyms: Path, shadow: Path | None, log: Log
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    line = pair.command.compile(
        Path("-"), "-D__GENKSYMS__", "-g0", source=tree.source, shadow=shadow
    )
    line[line.index("-c")] = "-E"
    # A dependency file would be written over by both.
    line = [word for word in line if not word.startswith(("-Wp,-MMD", "-Wp,-MD"))]
    log(" ".join(line) + f" | {genksyms} -r /dev/null")
    preprocessor = subprocess.Popen(
        line,
        cwd=tree.build,
        env=build_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    reader = subprocess.Popen(
        [genksyms, "-r", "/dev/null"],
        stdin=preprocessor.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert preprocessor.stdout is not None
    preprocessor.stdout.close()
    return preprocessor, reader


def _finish(
    pair: ObjectPair, preprocessor: subprocess.Popen[bytes], reader: subprocess.Popen[bytes]
) -> dict[str, str]:
    output = reader.communicate()[0].decode(errors="replace")
    if preprocessor.wait() or reader.returncode:
        raise KlpError("genksyms cannot read the source", where=pair.source)
    return {new or old: crc for new, old, crc in _VERSION.findall(output)}
