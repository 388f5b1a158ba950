"""Hide what a compiler quotes from files that are neither the livepatch's nor the kernel's.

A source that includes an absolute path makes the compiler show that file's lines in its
errors; in continuous integration they would be read by whoever wrote the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from klpbuild.compiler.flags import CompileCommand
from klpbuild.kernel.tree import Kernel

#: Where a compiler keeps its own headers.
_SYSTEM = Path("/usr")
_PLACE = re.compile(r"^(?:In file included from |\s+from )?([^\s:][^:\n]*):\d+", re.MULTILINE)


#: Where compilers and kernels are installed.
_INSTALLED = ("/usr/lib", "/usr/lib64", "/usr/include", "/usr/src", "/usr/local", "/lib/modules")
_MESSAGE = re.compile(
    r"(?:In file included from |\s+from )?(?P<file>[^:\n]+)"
    r":(?:(?P<line>\d+)[:,]| Assembler messages)"
)


def quotable(
    said: str,
    read: Sequence[Path] | None,
    source: Path,
    kernel: Kernel,
    command: CompileCommand,
    more: Iterable[Path] = (),
) -> str:
    """Return what a compiler said, or why it is not shown.

    :param read: the files that it read; None if it did not say, since it stopped early.
    :param source: what it compiled, absolute.
    :param more: directories of which everything may be shown, too.
    """
    if not said:
        return said
    if read is None:
        read = [command.directory / name for name in _PLACE.findall(said)]
    own = [tree.resolve() for tree in (*_trees(source, kernel, command), *more)]
    for path in read:
        place = path.resolve()
        if not any(place.is_relative_to(tree) for tree in own):
            return (
                f"It includes {path}, which is neither the livepatch's nor the kernel's:\n"
                "what the compiler says is not shown, since it quotes the file."
            )
    return said


def _trees(source: Path, kernel: Kernel, command: CompileCommand) -> Iterable[Path]:
    """List the directories of which everything may be shown."""
    livepatches = source.parent.parent
    included = (flag[2:] for flag in command.flags if flag.startswith("-I"))
    trees = [
        source.parent,
        Path.cwd(),
        Path(__file__).parent,
        _SYSTEM,
        command.directory,
        kernel.build,
        kernel.build / "source",
        kernel.cache,
        *(command.directory / name for name in included),
    ]
    if kernel.source is not None:
        trees.append(kernel.source)
    if livepatches != livepatches.parent:
        trees.append(livepatches)
    return trees


def without_foreign(said: str, directory: Path, roots: Iterable[Path]) -> str:
    """Return a compiler's messages, or name the file below none of the roots that they quote.

    :param said: its messages.
    :param directory: where it ran.
    :param roots: directories whose files may be quoted, besides installed ones.
    """
    allowed = [Path(name) for name in _INSTALLED]
    allowed += [root for each in roots if (root := each.resolve()) != Path("/")]
    own = ""
    for line in said.splitlines():
        match = _MESSAGE.match(line)
        if match is None:
            continue
        path = _file(directory, match["file"])
        if path is None:
            continue
        if not any(path.is_relative_to(root) for root in allowed):
            return (
                f"{own or match['file'] + ':1'}: error: {match['file']} is neither the kernel's"
                " nor the livepatch's: what the compiler says of it is not shown\n"
            )
        if match["line"]:
            own = f"{match['file']}:{match['line']}"
    return said


def _file(directory: Path, name: str) -> Path | None:
    """Find the file that a message names; None if there is none."""
    try:
        path = (directory / name).resolve()
        return path if path.exists() else None
    except OSError:
        return None
