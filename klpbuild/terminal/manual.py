"""Write the commands' reference as a man page and as Markdown, both made from the parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import klpbuild

#: Exit statuses of every command that does not say otherwise.
EXIT_STATUSES = (
    ("0", "done, and nothing is wrong"),
    ("1", "the input cannot be used, or a check or a boot failed"),
    ("2", "the command line cannot be read; of `check`: it could not be checked"),
    ("130", "interrupted"),
)

#: Environment variables that klpbuild reads.
ENVIRONMENT = (
    ("KLPBUILD_CACHE", "directory of fetched kernels; default `~/.cache/klpbuild`"),
    ("KLPBUILD_ACCEL", "`tcg` or `kvm`: how QEMU runs a guest; default: what works"),
    ("NO_COLOR", "not empty: nothing is coloured; `FORCE_COLOR`: all is, also what is no terminal"),
    ("GITHUB_ACTIONS", "`true`: errors and findings are also written as GitHub's annotations"),
    ("SOURCE_DATE_EPOCH", "the time that programs write into their output"),
)


@dataclass(frozen=True)
class Word:
    """An option or an argument of a command.

    :ivar names: as they are typed, ``-o FILE`` or ``MODULE.ko``.
    """

    names: str
    help: str


@dataclass(frozen=True)
class Command:
    """A command, as the reference shows it.

    :ivar name: with the words before it, ``klpbuild kernel fetch``.
    :ivar usage: one line.
    :ivar text: paragraphs.
    """

    name: str
    usage: str
    text: str
    words: tuple[Word, ...]

    @property
    def explained(self) -> list[Word]:
        """The words that the usage does not explain by itself."""
        return [word for word in self.words if word.help and word.names != "-h, --help"]


def commands(parser: argparse.ArgumentParser, summary: str = "") -> Iterator[Command]:
    """List the commands of a parser, each before the words below it; the parser itself first.

    :param summary: what to say of a parser without description.
    """
    yield _command(parser, summary)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                yield from commands(below, helps.get(name, ""))


def _command(parser: argparse.ArgumentParser, summary: str) -> Command:
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    words = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            words += [Word(c.dest, c.help or "") for c in action._choices_actions]
            continue
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        names = [f"{name} {value}".strip() for name in action.option_strings]
        if not names:
            names = [formatter._metavar_formatter(action, action.dest)(1)[0]]
        words.append(Word(", ".join(names), formatter._expand_help(action) if action.help else ""))
    text = (parser.description or summary).strip()
    return Command(parser.prog, formatter.format_help().strip(), text, tuple(words))


def man_page(parser: argparse.ArgumentParser) -> str:
    """Write the page ``klpbuild.1``, for man(1)."""
    whole, *below = commands(parser)
    purpose = whole.text.rstrip(".")
    lines = [
        f'.TH KLPBUILD 1 "" "klpbuild {klpbuild.__version__}" "User Commands"',
        ".SH NAME",
        rf"klpbuild \- {_roff(purpose[0].lower() + purpose[1:])}",
        ".SH SYNOPSIS",
        r"\fBklpbuild\fR [\-h] [\-\-color WHEN] [\-\-version] \fICOMMAND\fR \&...",
        ".br",
        r"\fBscons\fR [\fINAME\fR=\fIVALUE\fR] \&... [\fITARGET\fR] \&...",
        ".SH DESCRIPTION",
        *_paragraphs(parser.description or ""),
        ".PP",
        *_paragraphs(parser.epilog or ""),
        ".SH COMMANDS",
    ]
    for command in below:
        lines += [f'.SS "{_roff(command.name)}"', _roff(command.usage), ".PP"]
        lines += _paragraphs(command.text)
        lines += _list((word.names, word.help) for word in command.explained)
    lines += [".SH EXIT STATUS", *_list(EXIT_STATUSES)]
    lines += [".SH ENVIRONMENT", *_list(ENVIRONMENT)]
    lines += [".SH FILES", *_list([("build/KERNEL/", "all outputs for one kernel")])]
    lines += [".SH SEE ALSO", ".BR scons (1),", ".BR modinfo (8),", ".BR insmod (8)"]
    return "\n".join(lines) + "\n"


def _list(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield from (".TP", rf"\fB{_roff(name)}\fR", _line(text))


def _paragraphs(text: str) -> Iterator[str]:
    """Write text in roff: what is indented keeps its lines."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        lines = paragraph.splitlines()
        as_it_is = any(line.startswith(" ") or re.match(r"\w+:  ", line) for line in lines)
        yield from [".nf"] * as_it_is
        yield from (_line(line) for line in lines)
        yield from [".fi"] * as_it_is


def _line(text: str) -> str:
    """Escape a line of text, so that roff never takes its beginning for a request."""
    plain = _roff(text.rstrip()) or r"\&"
    return rf"\&{plain}" if plain[0] in ".' " else plain


def _roff(text: str) -> str:
    quoted = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return re.sub("`([^`]*)`", r"\\fB\1\\fR", quoted)


def markdown(parser: argparse.ArgumentParser) -> str:
    """Write the commands as chapters of a Markdown document."""
    lines = []
    for command in list(commands(parser))[1:]:
        lines += [f"### {command.name}", "", "```", command.usage, "```", "", command.text, ""]
        if command.explained:
            lines += ["| word | meaning |", "|---|---|"]
            lines += [f"| `{_cell(w.names)}` | {_cell(w.help)} |" for w in command.explained]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
