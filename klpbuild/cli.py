"""The command ``klpbuild``: one module of klpbuild.commands for each word."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from importlib.resources import files

import klpbuild
import klpbuild.commands
from klpbuild.errors import KlpError

#: Exit statuses: done, the input cannot be used, the command line cannot, interrupted.
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def command_names() -> list[str]:
    """List the commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(klpbuild.commands.__path__))


def make_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of all commands.

    :param wanted: the one command whose options are needed: the others are not imported, and
        only listed; None for all of them.
    """
    parser = argparse.ArgumentParser(
        prog="klpbuild",
        description="Build, verify and boot Linux livepatch modules.",
        epilog="The build itself is `scons livepatch=NAME kernel=RELEASE`; `scons -h` explains it.",
    )
    parser.add_argument("--version", action="version", version=f"klpbuild {klpbuild.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in command_names():
        summary, _, description = _docstring(name).partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=f"{summary}\n{description}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if wanted in (None, name):
            module = importlib.import_module(f"klpbuild.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=parser)
    return parser


def _docstring(name: str) -> str:
    """Read a command's docstring without importing the command."""
    source = files(klpbuild.commands).joinpath(f"{name}.py").read_text()
    return source.split('"""', 2)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["cc"]:  # the compiler's own options must not be read as ours
        return _guarded(lambda: _compiler(words[1:]))
    needs_all = words[:1] in (["completion"], ["manual"])
    parser = make_parser(None if needs_all else (words or [""])[0])
    if not words:
        parser.print_help()
        return USAGE
    parsed = parser.parse_args(words)
    return _guarded(lambda: int(parsed.run(parsed)))


def _compiler(words: list[str]) -> int:
    from klpbuild.commands import cc

    return int(cc.main(words))


def _guarded(run: object) -> int:
    assert callable(run)
    try:
        return int(run())
    except KlpError as error:
        for problem in error.problems:
            print(f"klpbuild: error: {problem}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("klpbuild: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return OK


if __name__ == "__main__":
    sys.exit(main())
