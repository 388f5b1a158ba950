"""Print what makes a shell complete klpbuild's commands, options and kernels.

bash:  klpbuild completion bash > ~/.local/share/bash-completion/completions/klpbuild
zsh:   klpbuild completion zsh > a directory of $fpath, as _klpbuild
fish:  klpbuild completion fish > ~/.config/fish/completions/klpbuild.fish

Example:

    klpbuild completion bash
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")

# Looks for the fetched kernels where `klpbuild.kernel.cache.cache_directory` does.
_KERNELS = (
    "echo fixtures; "
    'ls "${KLPBUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/klpbuild}/kernels" 2>/dev/null |'
    ' grep -x "[A-Za-z0-9][A-Za-z0-9.+~_=@,-]*"'  # bash expands what compgen -W gets
)
_PREAMBLE = {
    "bash": f'_klpbuild_kernels() {{ compgen -W "$({_KERNELS})" -- "$1"; }}',
    "zsh": f'_klpbuild_kernels() {{ compadd -- ${{(f)"$({_KERNELS})"}}; }}',
    "fish": f"function __klpbuild_kernels; sh -c '{_KERNELS}'; end",
}
_KERNEL = {"bash": "_klpbuild_kernels", "zsh": "_klpbuild_kernels", "fish": "(__klpbuild_kernels)"}
#: Arguments that name a kernel; those whose type is a path name a file.
_KERNEL_WORDS = ("kernel", "release")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(script(arguments.parser, arguments.shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the script by which the shell completes a parser's words.

    :param shell: one of `SHELLS`.
    """
    import shtab

    _mark(parser)
    return str(shtab.complete(parser, shell=shell, preamble=_PREAMBLE[shell]))


def _mark(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that are files and those that are kernels."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark(below)
        elif action.dest in _KERNEL_WORDS:
            action.complete = _KERNEL  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
