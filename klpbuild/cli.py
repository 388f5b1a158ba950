"""The command ``klpbuild``: one module of klpbuild.commands for each word."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import klpbuild
import klpbuild.commands
from klpbuild.errors import KlpError

#: Exit statuses: done, the input cannot be used, interrupted by the user.
OK, FAILED, INTERRUPTED = 0, 1, 130


def _commands() -> dict[str, ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(klpbuild.commands.__path__))
    return {name: importlib.import_module(f"klpbuild.commands.{name}") for name in names}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="klpbuild",
        description="Build, verify and boot Linux livepatch modules.",
        epilog="The build itself is `scons livepatch=NAME kernel=RELEASE`; `scons -h` explains it.",
    )
    parser.add_argument("--version", action="version", version=f"klpbuild {klpbuild.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in _commands().items():
        summary, _, description = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=f"{summary}\n{description}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["cc"]:  # the compiler's own options must not be read as ours
        return _guarded(lambda: _compiler(words[1:]))
    parsed = make_parser().parse_args(words)
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
