"""The words on scons' command line: explained, and checked."""

from __future__ import annotations

import difflib
import sys

#: Targets, and what each does.
TARGETS = {
    "livepatch": "build the modules (this is the default)",
    "symbols": "write symbols.klp, every symbol of the kernel",
    "boot": "boot the kernel in QEMU, load the modules, show what changes, unload them",
    "test": "run the tests that need no kernel",
    "test-kernel": "fetch Debian kernels, build the samples for them and boot them",
    "benchmark": "measure, and write build/benchmark.json",
}

_EXAMPLES = """\
Examples:
  scons livepatch=meminfo                     build a sample for the miniature kernel
  klpbuild kernel fetch                       get the newest Debian cloud kernel
  scons livepatch=meminfo kernel=RELEASE      build it for that kernel
  scons livepatch=meminfo kernel=RELEASE boot and boot it
  scons livepatches=~/fixes livepatch=a,b     build your own
Results are in build/<kernel>/: livepatch-NAME.ko, symbols.klp, graphs, build.log.
"""


def help_text(env, variables):
    """What `scons -h` prints: options with defaults, targets, examples."""
    lines = ["Options, as NAME=VALUE:"]
    for option in sorted(variables.options, key=lambda o: o.key):
        lines.append(f"  {option.key:<12} {option.help}")
        lines.append(f"  {'':<12} default: {option.default}")
    lines.append("Targets:")
    lines += [f"  {name:<12} {text}" for name, text in TARGETS.items()]
    lines.append(_EXAMPLES)
    return "\n".join(lines) + "\n"


def check_arguments(env, variables, targets):
    """End with a message when the command line has a word that nobody reads."""
    known = [option.key for option in variables.options]
    unknown = sorted(variables.UnknownVariables())
    for word in unknown:
        _say(f"option {word!r} is not known", word, known)
    if unknown:
        sys.exit(2)


def fail(text):
    """End with a message of several lines."""
    print("\n".join(f"scons: error: {line}" for line in text.split("\n\n")), file=sys.stderr)
    sys.exit(2)


def _say(what, word, known):
    near = difflib.get_close_matches(word, known, 1)
    print(f"scons: error: {what}", file=sys.stderr)
    if near:
        print(f"  Did you mean {near[0]}?", file=sys.stderr)
    print(f"  Known: {', '.join(sorted(known))}.", file=sys.stderr)
