"""Read, check and explain options and targets of scons' command line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from SCons.Script import ARGUMENTS, COMMAND_LINE_TARGETS

from klpbuild.errors import Problem, did_you_mean
from klpbuild.request.variables import NAMES, VARIABLES
from klpbuild.terminal.shown import show

#: Targets, and what each does.
TARGETS = {
    "livepatch": "build the modules (this is the default)",
    "compile_commands": "write build/compile_commands.json, for clangd and other editors' tools",
    "symbols": "write symbols.klp, every symbol of the kernel",
    "boot": "boot the kernel in QEMU, load the modules, show what changes, unload them",
    "check": "say what the kernel will say of each module; the exit status tells",
    "install": "put the modules into DESTDIR/PREFIX/lib/modules/RELEASE/updates/livepatch",
    "uninstall": "remove what install put there, and nothing else",
    "dist": "make packages in build/<kernel>/dist/: .deb, .spec and .rpm",
}


@dataclass(frozen=True)
class Option:
    """An option of the command line, which an environment may set, too.

    :ivar default: what holds without it.
    :ivar unset: what that means where it is empty.
    """

    name: str
    help: str
    example: str
    default: str = ""
    unset: str = "none"


# fmt: off
OPTIONS = (
    Option("V", "show command lines, and what becomes of each reference: 1 or 0", "V=1", "0"),
    Option("cache", "directory that keeps what is built, for other checkouts and machines",
        "cache=~/.cache/livepatches"),
    Option("junit", "file for the results of all livepatches and kernels, as JUnit XML",
        "junit=results.xml"),
    Option("kallsyms", "copy of /proc/kallsyms that root made, in place of the kernel's own",
        "kallsyms=kallsyms-of-the-target"),
    Option("kernel", "fixtures, a fetched release, the path of a tree, or several with commas",
        "kernel=6.1.0-47-cloud-amd64,/usr/src/linux", unset="the newest that is fetched"),
    Option("launcher", "starts each compiler: ccache, distcc, icecc or sccache", "launcher=ccache"),
    Option("livepatch", "livepatches to build: names with commas between, or all",
        "livepatch=meminfo,cmdline", "all"),
    Option("livepatches", "directory with one directory for each livepatch", "livepatches=fixes",
        "fixes"),
    Option("modules", "further module files and directories of them, with commas between",
        "modules=/lib/modules/6.1.0/extra,out/driver.ko"),
    Option("packages",
        "kinds that dist makes, of deb, spec, rpm, meta-deb, meta-rpm (metapackages);"
        " else of the first three what has its tools here", "packages=deb,meta-deb"),
    Option("sarif", "file for what is refused and found, as SARIF", "sarif=klpbuild.sarif"),
    Option("system_map", "System.map, in place of the kernel's own",
        "system_map=/boot/System.map-6.1.0-47-cloud-amd64"),
    Option("timings", "tell at the end what each step cost: 1 or 0", "timings=1", "0"),
    Option("vmlinux", "vmlinux with symbols, in place of the kernel's own",
        "vmlinux=/usr/lib/debug/boot/vmlinux-6.1.0-47-cloud-amd64"),
    Option("watch", "files of the guest that boot shows, with commas between",
        "watch=/proc/meminfo,/proc/cmdline", "/proc/meminfo"),
)
# fmt: on


_PURPOSE = """\
Builds Linux livepatch modules: loadable modules that replace functions of a
running kernel, without a reboot.  docs/tutorial.md is where to begin.
"""

_EXAMPLES = """\
Examples:
  scons livepatch=meminfo
      build a sample for the miniature kernel
  klpbuild kernel fetch
      get the newest Debian cloud kernel
  scons livepatch=meminfo kernel=RELEASE
      build it for that kernel
  scons livepatch=meminfo kernel=RELEASE boot
      and boot it
  scons livepatches=fixes livepatch=a,b kernel=RELEASE
      build your own: fixes/a and fixes/b hold C files with livepatch.toml,
      or patches
  scons -k -j4 kernel=RELEASE,OTHER cache=~/.cache/livepatches
      build all livepatches for two kernels, go on past failures, keep what is
      built
"""

_RESULTS = """\
Results are in build/<kernel>/: livepatch-NAME.ko, symbols.klp, build.log, more.
A module that was changed by hand is not built again: delete it, or `scons -c`.
`scons --debug=explain` says why something is built.
"""


def read_options(env: Any) -> None:
    """Set each option: to what the command line says, else what the environment has.

    SCons' own Variables would expand them.
    """
    for option in OPTIONS:
        env[option.name] = ARGUMENTS.get(option.name, env.get(option.name, option.default))


def help_text(env: Any, further: Mapping[str, str] = {}) -> str:
    """Write what `scons -h` prints: purpose, examples, options with defaults, targets.

    :param further: targets of the SConstruct, and what each does.
    """
    lines = _PURPOSE.splitlines() + _EXAMPLES.splitlines()
    lines.append("Options, as NAME=VALUE:")
    for option in OPTIONS:
        default = env.get(option.name, option.default) or option.unset
        lines += _explained(12, option.name, option.help, default, option.example)
    lines.append("Variables of packagers, as NAME=VALUE or in the environment; NAME=VALUE wins:")
    for variable in VARIABLES:
        text = " ".join(variable.help.split())
        lines += _explained(17, variable.name, text, variable.default, variable.example)
    lines.append("Targets:")
    for name, text in {**TARGETS, **further}.items():
        lines += _wrapped(16, name, text)
    lines += _RESULTS.splitlines()
    return "\n".join(lines) + "\n\n"


def _explained(width: int, name: str, text: str, default: str, example: str) -> Iterator[str]:
    yield from _wrapped(width, name, text)
    yield from _wrapped(width, "", f"default: {default}")
    yield from _wrapped(width, "", f"example: {example}")


def _wrapped(width: int, name: str, text: str) -> list[str]:
    """Wrap a name and its meaning beside it, in lines of 80 columns at most."""
    begin, indent = f"  {name:<{width}} ", " " * (width + 3)
    return textwrap.wrap(
        text, 80, initial_indent=begin, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def check_arguments(env: Any, further: Iterable[str] = ()) -> None:
    """End with a message for a word that nobody reads, or when texts are not UTF-8.

    :param further: targets of the SConstruct.
    """
    if sys.getfilesystemencoding() != "utf-8":
        what = f"Python takes texts for {sys.getfilesystemencoding()}, as the locale says"
        show(Problem(what, hint="Set PYTHONUTF8=1, as ./scons does."), "scons")
        sys.exit(2)
    options = [*(option.name for option in OPTIONS), *NAMES]
    targets = [*TARGETS, *further]
    unknown = [("option", word, options) for word in sorted(set(ARGUMENTS) - set(options))]
    inside = f"{env['KLP_BUILD']}/"
    unknown += [
        ("target", word, targets)
        for word in map(str, COMMAND_LINE_TARGETS)
        if word not in targets and not (word.startswith(inside) and word.isprintable())
    ]
    for kind, word, known in unknown:
        near, hint = did_you_mean(word, known), f"Known: {', '.join(sorted(known))}."
        show(Problem(f"{kind} {word!r} is not known", why=near, hint=hint), "scons")
    if unknown:
        sys.exit(2)
