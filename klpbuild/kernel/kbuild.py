"""Run a kernel's own build system, the same way every time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from klpbuild.arch import ARCHITECTURES
from klpbuild.distro.tools import compiler_packages
from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.cache import UNFIT_FOR_MAKE, locked
from klpbuild.kernel.config import Config
from klpbuild.kernel.tree import Kernel
from klpbuild.run import run

#: Variables of the user's environment that make gets; others could change the result.
_PASSED = re.compile(r"PATH|HOME|TMPDIR|SOURCE_DATE_EPOCH|CCACHE_\w+|DEBIAN_KERNEL_USE_CCACHE")

#: The latest time that fits the header of a tar file, 11 octal digits.
_EPOCH_MAX = 8**11 - 1

_BUILDER = {"KBUILD_BUILD_USER": "klpbuild", "KBUILD_BUILD_HOST": "klpbuild"}

_FAULT = re.compile(r"(?i)error|undefined|\*\*\*|no such file|not found|cannot|failed")
#: Options and paths, in which the same words say nothing.
_NO_WORDS = re.compile(r"(?<!\S)-\S+|\S*/\S*")
#: Length of a line in an error; build.log has all of it.
_LINE_MAX = 400


def read_epoch(text: str) -> int | None:
    """Parse ``SOURCE_DATE_EPOCH``, in seconds since 1970; None when it is empty.

    :raises KlpError: when it is no such number, or too large for an archive.
    """
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) > _EPOCH_MAX:
        raise KlpError(
            "is not a number of seconds since 1970",
            where=f"SOURCE_DATE_EPOCH={text}",
            why=f"Archives hold times up to {_EPOCH_MAX}." if text.isdigit() else "",
            hint="`git log -1 --format=%ct` prints one.",
        )
    return int(text)


def build_environment() -> dict[str, str]:
    """Make the environment of every program that a build runs.

    Nothing in it tells the time of the build: SOURCE_DATE_EPOCH does, and without it 1970.

    :raises KlpError: when SOURCE_DATE_EPOCH is no number of seconds.
    """
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    moment = datetime.fromtimestamp(read_epoch(passed.get("SOURCE_DATE_EPOCH", "")) or 0, UTC)
    time = {"KBUILD_BUILD_TIMESTAMP": moment.strftime("%a %b %e %H:%M:%S UTC %Y")}
    return {**passed, "LC_ALL": "C", "LANG": "C", **_BUILDER, **time}


@dataclass(frozen=True)
class Compiler:
    """The compiler for a kernel.

    :ivar command: its name, for ``CC=``.
    :ivar version: the first line of what it says for ``--version``.
    :ivar kernel_version: that line of the compiler which built the kernel.
    """

    command: str
    version: str
    kernel_version: str

    @property
    def is_kernels(self) -> bool:
        """Whether it is the very compiler that built the kernel."""
        return _identity(self.version) == _identity(self.kernel_version)

    @property
    def is_kernels_version(self) -> bool:
        """Whether its version is that of the compiler which built the kernel, such as 12.2.0."""
        return _number(self.version) == _number(self.kernel_version)

    @property
    def warning(self) -> str:
        """A warning for the user, empty when there is nothing."""
        if self.is_kernels:
            return ""
        packages = " and ".join(compiler_packages(self.kernel_version))
        right = f"; {packages} would be the right one" if not self.is_kernels_version else ""
        return (
            f"the kernel was built by {self.kernel_version}, this machine has {self.version}: "
            f"the same source may become other code{right if packages else ''}"
        )


def _number(version: str) -> str:
    match = re.search(r"\d+\.\d+\.\d+", re.sub(r"\([^)]*\)", "", version))
    return match[0] if match else version


def _identity(version: str) -> str:
    """Strip the name that the compiler was called by from a version line."""
    return version if "clang" in version else version.partition(" ")[2]


def find_compiler(kernel: Kernel) -> Compiler:
    """Find the compiler that the user names, else the one nearest to that which built the kernel.

    :raises KlpError: when the machine has none for the kernel's architecture.
    """
    wanted = Config.read(kernel.config).value("CC_VERSION_TEXT")
    if kernel.toolchain.cc:
        return _named_compiler(kernel, wanted)
    names = _compiler_names(kernel, wanted)
    found = [
        Compiler(name, version, wanted or version)
        for name in names
        if (version := version_line(name))
    ]
    if not found:
        raise KlpError(
            f"no compiler for {kernel.arch.name} is on this machine",
            why=f"{kernel.release} was built by {wanted}.  Looked for: {', '.join(names)}.",
            hint="CROSS_COMPILE says what their names begin with."
            if kernel.toolchain.cross_compile
            else f"Install {packages_of_compiler(kernel, wanted) or names[0]}.",
        )
    major = _major(wanted)
    # kbuild warns of another compiler when only the name that it was called by differs.
    chosen = min(
        found, key=lambda c: (c.version != wanted, not c.is_kernels, _major(c.version) != major)
    )
    if prefix := kernel.toolchain.cross_compile:
        _check_target(kernel, chosen.command, chosen.version, f"CROSS_COMPILE={prefix}")
    return chosen


def packages_of_compiler(kernel: Kernel, wanted: str) -> str:
    """Name Debian's packages with a kernel's compiler, such as gcc-12-s390x-linux-gnu."""
    prefix = "" if "clang" in wanted else cross_prefix(kernel).replace("_", "-").removesuffix("-")
    packages = compiler_packages(wanted)
    return " ".join(f"{package}-{prefix}" if prefix else package for package in packages)


def is_here(kernel: Kernel) -> bool:
    """Tell whether the very compiler that built a kernel is on this machine."""
    try:
        return find_compiler(kernel).is_kernels
    except KlpError:
        return False


def _named_compiler(kernel: Kernel, wanted: str) -> Compiler:
    name = kernel.toolchain.cc
    version = version_line(name)
    if not version:
        raise KlpError(
            "is not a compiler on this machine",
            where=f"CC={name}",
            why="It must say its version when it is called with --version.",
        )
    _check_target(kernel, name, version, f"CC={name}")
    return Compiler(name, version, wanted or version)


def _check_target(kernel: Kernel, name: str, version: str, where: str) -> None:
    """Refuse a compiler of another architecture than the kernel's."""
    machine = _said(name, "-dumpmachine").partition("-")[0]
    known = {architecture.name for architecture in ARCHITECTURES}
    # clang compiles for any architecture; kbuild tells it which.
    if "clang" not in version and machine in known and machine != kernel.arch.name:
        raise KlpError(
            f"compiles for {machine}, and the kernel is for {kernel.arch.name}",
            where=where,
            hint="Leave it out: klpbuild looks for the compiler by the kernel.",
        )


def _major(version: str) -> str:
    match = re.search(r"(\d+)\.\d+\.\d+[^.]*$", version)
    return match[1] if match else ""


def _compiler_names(kernel: Kernel, wanted: str) -> list[str]:
    kind, major = ("clang" if "clang" in wanted else "gcc"), _major(wanted)
    names = [f"{kind}-{major}", kind] if major else [kind]
    if kind == "gcc":
        names = [cross_prefix(kernel) + name for name in names]
        said = wanted.partition(" ")[0]
        # "gcc (Debian ...)" names the program; so does "x86_64-linux-gnu-gcc-12 (...)".
        if said.startswith(cross_prefix(kernel)) and said not in names:
            names.append(said)
    return names


def cross_prefix(kernel: Kernel) -> str:
    """Choose ``CROSS_COMPILE``: the user's, or that of another architecture; else empty."""
    if kernel.toolchain.cross_compile:
        return kernel.toolchain.cross_compile
    return "" if kernel.arch.is_native else f"{kernel.arch.name}-linux-gnu-"


def version_line(name: str) -> str:
    """Read the first line that a program prints for --version, empty when it is not there."""
    return _said(name, "--version")


def _said(compiler: str, option: str) -> str:
    """Read the first line that a compiler prints, empty when it is not there or fails."""
    try:
        words = shlex.split(compiler)
    except ValueError:
        return ""
    if not words or not shutil.which(words[0]):
        return ""
    process = run([*words, option], build_environment())
    return process.stdout.partition("\n")[0] if process.returncode == 0 else ""


def check_toolchain(kernel: Kernel) -> None:
    """Refuse ARCH, CC, CROSS_COMPILE or KCFLAGS that cannot be for the kernel."""
    problems = Problems()
    tools = {"CC": kernel.toolchain.cc, "CROSS_COMPILE": kernel.toolchain.cross_compile,
             "KCFLAGS": kernel.toolchain.kcflags}  # fmt: skip
    for name, value in tools.items():
        if re.search(r"[$`;&|<>\n]", value):
            problems.add(
                "has a character that means something to make or to a shell",
                where=f"{name}={value}",
                why="kbuild hands it to both, and they would run what follows.",
                hint="Leave out $ ` ; & | < > and line breaks.",
            )
    problems.check()
    own, given = kernel.arch.kernel_name, kernel.toolchain.arch
    if given and given != own and (own, given) != ("x86", "x86_64"):
        problems.add(
            f"the kernel is for {kernel.arch.name}, which kbuild calls {own}",
            where=f"ARCH={given}",
            why=f"{kernel.config} says so.",
            hint="Leave ARCH out: klpbuild knows it from the kernel.",
        )
    with problems.collect():
        find_compiler(kernel)
    problems.check()


def make_variables(kernel: Kernel) -> dict[str, str]:
    """Collect the variables that every make for a kernel is given."""
    arch = kernel.toolchain.arch or kernel.arch.kernel_name
    variables = {"ARCH": arch, "CC": find_compiler(kernel).command}
    if kernel.toolchain.kcflags:
        variables["KCFLAGS"] = kernel.toolchain.kcflags
    prefix = cross_prefix(kernel)
    if prefix:
        variables["CROSS_COMPILE"] = prefix
    return variables | llvm_variables(kernel, variables["CC"])


def llvm_variables(kernel: Kernel, compiler: str) -> dict[str, str]:
    """Set ``LLVM=`` for a kernel that was linked by lld; empty for others.

    :param compiler: its name: behind ``clang-19`` the other programs end in -19, too
        (Documentation/kbuild/llvm.rst).
    """
    if not Config.read(kernel.config).enabled("LD_IS_LLD"):
        return {}
    return {"LLVM": _llvm_suffix(compiler) or "1"}


def linker_suffix(kernel: Kernel) -> str | None:
    """Find what ``ld.lld`` ends in for a kernel; None for one that GNU ld linked.

    :returns: ``-19``, or an empty text.
    """
    if not Config.read(kernel.config).enabled("LD_IS_LLD"):
        return None
    try:
        return _llvm_suffix(find_compiler(kernel).command)
    except KlpError:
        return ""


def _llvm_suffix(compiler: str) -> str:
    match = re.search(r"clang(-\d+)$", compiler)
    return match[1] if match and "/" not in compiler else ""


def run_make(
    kernel: Kernel,
    module_directory: Path | None,
    *targets: str,
    variables: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """Run make in a kernel's build tree.

    :param module_directory: directory of an external module (``M=``), if any.
    :param targets: such as ``modules``.
    :param variables: further variables, such as ``KBUILD_MODPOST_WARN``.
    :param log: the command line and all output are added to this file.
    :returns: what make and its commands printed.
    :raises KlpError: when make fails; with the lines that tell why.
    """
    settings = make_variables(kernel)
    check_make_path(kernel.build)
    if module_directory is not None:
        check_make_path(module_directory)
        settings["M"] = str(module_directory.absolute())
        # Type information for a module needs pahole; a livepatch module needs none.
        settings["CONFIG_DEBUG_INFO_BTF_MODULES"] = ""
    settings |= variables or {}
    words = [f"{name}={value}" for name, value in settings.items()]
    try:
        return make(kernel.build, [*words, *targets], log=log)
    except KlpError as error:
        if not (warning := find_compiler(kernel).warning):
            raise
        first, *others = error.problems
        first = replace(first, why=f"{warning}\n{first.why}")
        raise KlpError.together([first, *others]) from None


def check_make_path(directory: Path) -> None:
    """Refuse a path that make or a shell of kbuild would take apart or run."""
    if UNFIT_FOR_MAKE.search(str(directory.absolute())):
        raise KlpError(
            "kbuild cannot work in this directory",
            where=str(directory),
            why="Its name has a character that means something to make.",
            hint="Choose a path without spaces and without % : # $ ' \" \\.",
        )


def make(directory: Path, words: Sequence[str], *, log: Path | None = None, jobs: int = 1) -> str:
    """Run ``make -C directory`` with nothing but the build's own environment.

    :param words: variables and targets.
    :param log: the command line and all output are added to this file.
    :returns: what make and its commands printed.
    :raises KlpError: when make fails; with the lines that tell why.
    """
    command = ["make", "--no-print-directory", f"-j{jobs}", "-C", str(directory), *words]
    environment = build_environment()
    try:
        process = run(command, environment, together=True)
    except FileNotFoundError as error:
        raise KlpError(
            "make is not on this machine", hint="Install the packages make and gcc."
        ) from error
    if log:
        add_to_log(log, command, environment, process.stdout)
    if process.returncode:
        raise _failed(directory, words, process.stdout, log)
    return process.stdout


def add_to_log(
    log: Path, command: Sequence[str], environment: Mapping[str, str], output: str
) -> None:
    """Add a command, its environment and what it printed to a log."""
    settings = [f"{name}={value}" for name, value in sorted(environment.items())]
    log.parent.mkdir(parents=True, exist_ok=True)
    entry = f"$ {shlex.join(['env', '-i', *settings, *command])}\n{output}\n"
    with log.open("ab", buffering=0) as file:  # one write, so that parallel builds do not mix
        file.write(entry.encode())


def _failed(directory: Path, words: Sequence[str], output: str, log: Path | None) -> KlpError:
    lines = output.splitlines()
    telling = telling_lines(lines)[:20] or lines[-20:]
    hints = []
    if "GLIBC_" in output:
        hints.append(
            "The kernel's build tools need a newer C library: build on the distribution\n"
            "that the kernel comes from."
        )
    if log:
        hints.append(f"The whole output is in {log}.")
    targets = " ".join(word for word in words if "=" not in word)
    return KlpError(
        f"kbuild failed: make {targets}".rstrip(),
        where=str(directory),
        why="\n".join(map(shortened, telling)),
        hint="\n".join(hints),
    )


def telling_lines(lines: Sequence[str]) -> list[str]:
    """Select the lines that name a fault, not command lines with options such as -Werror."""
    return [line for line in lines if _FAULT.search(_NO_WORDS.sub("", line))]


def shortened(line: str) -> str:
    """Cut a line of a program's output that is too long to be read."""
    return line if len(line) <= _LINE_MAX else f"{line[:_LINE_MAX]} [...]"


def build_fixtures(fixtures: Path, output: Path) -> None:
    """Build the miniature kernel; does nothing when it is up to date.

    :raises KlpError: when it does not compile.
    """
    check_make_path(output)
    check_make_path(fixtures)
    with locked(output):
        output.mkdir(exist_ok=True)
        make(fixtures, [f"O={output.absolute()}"], jobs=os.cpu_count() or 1)
