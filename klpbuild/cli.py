"""The command ``klpbuild``: one module of klpbuild.commands for each word.

Nothing is imported before `main` runs: from then on an interrupt ends in one line.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from _typeshed import SupportsWrite

    from klpbuild.errors import Problem

#: Exit statuses: done, the input cannot be used, the command line cannot, interrupted.
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

#: Commands that have a progress of their own, or none.
_LIVELY = ("completion", "kernel", "manual")

#: Of a program that a signal ends: 128 and the signal's number.  SIGPIPE has 13.
_BROKEN_PIPE = 141


def command_names() -> list[str]:
    """List the commands, sorted."""
    import pkgutil

    import klpbuild.commands

    return sorted(module.name for module in pkgutil.iter_modules(klpbuild.commands.__path__))


def make_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of all commands.

    :param wanted: the one command whose options are needed: the others are not imported, and
        only listed; None for all of them.
    """
    import argparse
    import importlib

    import klpbuild

    class Parser(argparse.ArgumentParser):
        """A parser that fails when its help cannot be written; newer argparse ignores that."""

        def print_help(self, file: SupportsWrite[str] | None = None) -> None:
            (file or sys.stdout).write(self.format_help())

    parser = Parser(
        prog="klpbuild",
        description="Build, verify and boot Linux livepatch modules.",
        epilog="The build itself is `scons livepatch=NAME kernel=RELEASE`; `scons -h` explains it.",
    )
    parser.add_argument(
        "--color",
        metavar="WHEN",
        help="colour what is shown: auto (on a terminal), always or never; also after the command",
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
            failed = getattr(module, "NOT_CHECKED", FAILED)
            command.set_defaults(run=module.run, parser=parser, failed=failed)
    return parser


def _import(wanted: str | None) -> argparse.ArgumentParser:
    """Make the parser with garbage collection off, which takes a tenth of a small build.

    All that is imported stays.
    """
    import gc

    gc.disable()
    try:
        return make_parser(wanted)
    finally:
        gc.freeze()
        gc.enable()


def _docstring(name: str) -> str:
    """Read a command's docstring without importing the command."""
    from importlib.resources import files

    source = files("klpbuild.commands").joinpath(f"{name}.py").read_text()
    return source.split('"""', 2)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    run, status = _Run(arguments), FAILED
    try:
        status = _guarded(run)
    except SystemExit as ended:  # of --help and --version
        if not ended.code and _flush(OK) != OK:
            sys.exit(FAILED)
        raise
    finally:
        if arguments is None:
            _end_at_signals()
        status = _flush(status)
    return status


def _unknown_command(words: Sequence[str]) -> Problem | None:
    """Report that there is no such command, and which is like it; None if there is one."""
    known = command_names()
    if words[0] in known or words[0].startswith("-"):
        return None
    from klpbuild.errors import Problem, did_you_mean

    near, hint = did_you_mean(words[0], known), f"Known: {', '.join(known)}."
    return Problem(f"command {words[0]!r} is not known", why=near, hint=hint)


def _unread(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Report words of the command line that nobody reads, and options that are like them."""
    from klpbuild.errors import did_you_mean
    from klpbuild.terminal.manual import commands

    names = [word.names for command in commands(parser) for word in command.words]
    options = {name.split()[0] for each in names for name in each.split(", ")}
    options = {option for option in options if option.startswith("--")}
    near = [did_you_mean(word.partition("=")[0], options) for word in words if word[:2] == "--"]
    return "  ".join([f"unrecognized arguments: {' '.join(words)}", *filter(None, near)])


class _Run:
    """One command that is run.

    :ivar failed: its exit status when its input cannot be used.
    """

    def __init__(self, arguments: Sequence[str] | None) -> None:
        self.words = list(sys.argv[1:] if arguments is None else arguments)
        self.is_program = arguments is None
        self.failed = FAILED

    def __call__(self) -> int:
        if self.is_program:
            _prepare()
        self._take_colour()
        if self.words[:1] == ["--version"]:
            import klpbuild

            print(f"klpbuild {klpbuild.__version__}")
            return OK
        if self.words[:1] == ["cc"]:  # the compiler's own options must not be read as ours
            from klpbuild.commands import cc

            return int(cc.main(self.words[1:]))
        needs_all = self.words[:1] in (["completion"], ["manual"])
        parse = _import if self.is_program else make_parser
        parser = parse(None if needs_all else (self.words or [""])[0])
        if not self.words:
            parser.print_help()
            return USAGE
        if unknown := _unknown_command(self.words):
            return _refuse([unknown], USAGE)
        parsed, unread = parser.parse_known_args(self.words)
        if unread:
            parser.error(_unread(unread, parser))
        self.failed = parsed.failed
        if self.words[0] in _LIVELY:
            return int(parsed.run(parsed))
        from klpbuild.terminal.progress import elapsed

        with elapsed():
            return int(parsed.run(parsed))

    def _take_colour(self) -> None:
        """Apply ``--color``, wherever it stands."""
        if not any(word.startswith("--color") for word in self.words):
            return
        import argparse

        from klpbuild.terminal.shown import WHEN, use_colour

        parser = argparse.ArgumentParser(prog="klpbuild", add_help=False, allow_abbrev=False)
        parser.add_argument("--color", choices=WHEN)
        parsed, self.words = parser.parse_known_args(self.words)
        if parsed.color:
            use_colour(parsed.color)


def _prepare() -> None:
    """Make texts UTF-8 and the streams usable, and let signals clean up."""
    import os
    import signal

    if sys.getfilesystemencoding() != "utf-8":  # the locale's: Python starts again with our own
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # ./scons lets the script start with interrupts blocked: Python would show where one came.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    from klpbuild.terminal.streams import open_streams

    open_streams()
    # numpy's threads would take memory, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is signal.SIG_DFL:  # not with nohup
            signal.signal(ending, lambda number, _: sys.exit(128 + number))


def _end_at_signals() -> None:
    """Restore the default action of interrupts: all is said, and what is left ends silently."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _flush(status: int) -> int:
    from klpbuild.terminal.streams import flush_output

    error = flush_output()
    if error is not None and status == OK and not isinstance(error, BrokenPipeError):
        from klpbuild.errors import Problem

        return _refuse([Problem(str(error.strerror), "standard output")], FAILED)
    return status


def _guarded(run: _Run) -> int:
    """Convert errors of input or machine into a message and an exit status."""
    try:
        return run()
    except KeyboardInterrupt:
        print("klpbuild: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        from klpbuild.terminal.streams import close_output

        close_output()
        return _BROKEN_PIPE
    except Exception as error:
        from klpbuild.errors import explained

        if (told := explained(error)) is None:
            raise
        return _refuse(told.problems, run.failed)


def _refuse(problems: Sequence[Problem], status: int) -> int:
    from klpbuild.terminal.shown import show

    for problem in problems:
        show(problem, "klpbuild")
    return status


if __name__ == "__main__":
    sys.exit(main())
