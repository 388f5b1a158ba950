"""The words on scons' command line: explained, and checked."""

from __future__ import annotations

import sys
import textwrap

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
    "test": "run the tests that need no kernel",
    "test-hardening": "damage, kill and fuzz, for up to ten minutes",
    "test-kernel": "fetch Debian kernels, build the samples for them and boot them",
    "benchmark": "measure, and write build/benchmark.json",
}

#: An example of each option.
_OPTION_EXAMPLES = {
    "livepatch": "livepatch=meminfo,cmdline",
    "livepatches": "livepatches=fixes",
    "kernel": "kernel=6.1.0-47-cloud-amd64,/usr/src/linux",
    "kallsyms": "kallsyms=kallsyms-of-the-target",
    "modules": "modules=/lib/modules/6.1.0/extra,out/driver.ko",
    "packages": "packages=deb",
    "system_map": "system_map=/boot/System.map-6.1.0-47-cloud-amd64",
    "vmlinux": "vmlinux=/usr/lib/debug/boot/vmlinux-6.1.0-47-cloud-amd64",
    "watch": "watch=/proc/meminfo,/proc/cmdline",
    "launcher": "launcher=ccache",
    "cache": "cache=~/.cache/livepatches",
    "junit": "junit=results.xml",
    "sarif": "sarif=klpbuild.sarif",
    "V": "V=1",
}

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


def help_text(env, variables):
    """What `scons -h` prints: what this is, examples, options with defaults, targets."""
    lines = _PURPOSE.splitlines() + _EXAMPLES.splitlines()
    lines.append("Options, as NAME=VALUE:")
    for option in sorted(variables.options, key=lambda o: o.key):
        default, example = option.default or "none", _OPTION_EXAMPLES[option.key]
        lines += _explained(12, option.key, option.help, default, example)
    lines.append("Variables of packagers, as NAME=VALUE or in the environment; NAME=VALUE wins:")
    for variable in VARIABLES:
        text = " ".join(variable.help.split())
        lines += _explained(17, variable.name, text, variable.default, variable.example)
    lines.append("Targets:")
    for name, text in TARGETS.items():
        lines += _wrapped(16, name, text)
    lines += _RESULTS.splitlines()
    return "\n".join(lines) + "\n\n"


def _explained(width, name, text, default, example):
    yield from _wrapped(width, name, text)
    yield from _wrapped(width, "", f"default: {default}")
    yield from _wrapped(width, "", f"example: {example}")


def _wrapped(width, name, text):
    """A name and what it means beside it, in lines of 80 columns at most."""
    begin, indent = f"  {name:<{width}} ", " " * (width + 3)
    return textwrap.wrap(
        text, 80, initial_indent=begin, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def check_arguments(env, variables, targets):
    """End with a message when the command line has a word that nobody reads."""
    options = [*(option.key for option in variables.options), *NAMES]
    words = sorted(set(variables.UnknownVariables()) - set(NAMES))
    unknown = [("option", word, options) for word in words]
    inside = f"{env['KLP_BUILD']}/"
    unknown += [
        ("target", word, list(TARGETS))
        for word in map(str, targets)
        if word not in TARGETS and not (word.startswith(inside) and word.isprintable())
    ]
    for kind, word, known in unknown:
        near, hint = did_you_mean(word, known), f"Known: {', '.join(sorted(known))}."
        show(Problem(f"{kind} {word!r} is not known", why=near, hint=hint), "scons")
    if unknown:
        sys.exit(2)
