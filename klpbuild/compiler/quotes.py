"""Keep what a compiler quotes of files that are none of a livepatch's out of messages and logs.

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


def quotable(
    said: str, read: Sequence[Path] | None, source: Path, kernel: Kernel, command: CompileCommand
) -> str:
    """What a compiler said, or why it is not shown.

    :param read: the files that it read; None if it did not say, since it stopped early.
    :param source: what it compiled, absolute.
    """
    if not said:
        return said
    if read is None:
        read = [command.directory / name for name in _PLACE.findall(said)]
    own = [tree.resolve() for tree in _trees(source, kernel, command)]
    for path in read:
        place = path.resolve()
        if not any(place.is_relative_to(tree) for tree in own):
            return (
                f"It includes {path}, which is neither the livepatch's nor the kernel's:\n"
                "what the compiler says is not shown, since it quotes the file."
            )
    return said


def _trees(source: Path, kernel: Kernel, command: CompileCommand) -> Iterable[Path]:
    """The directories of which everything may be shown."""
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
