"""The kernel's source made ready to compile one object at a time, as the kernel was built."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.cache import locked
from klpbuild.kernel.tree import Kernel

#: Takes a line for the build log.
Log = Callable[[str], None]

#: Raised when what `prepare` makes changes.
_FORMAT = 1
_STAMP = ".klpbuild-prepared"
#: What a build may take over from the caller; CFLAGS, MAKEFLAGS and the like would change it.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "USER")


@dataclass(frozen=True)
class PreparedTree:
    """A build directory in which kbuild makes single objects.

    :ivar source: the source tree, which stays as it is.
    :ivar build: kbuild's ``O=``.
    :ivar compiler: ``CC=``.
    :ivar variables: what kbuild is called with, besides ``O=``.
    :ivar differences: configuration that differs from the kernel's, one line each.
    """

    source: Path
    build: Path
    compiler: str
    variables: tuple[str, ...]
    differences: tuple[str, ...]

    def make(self, *targets: str) -> list[str]:
        """The command line that makes targets."""
        command = ["make", "-C", str(self.source), f"O={self.build}", "--no-print-directory"]
        return [*command, *self.variables, *targets]


def build_environment() -> dict[str, str]:
    """The environment that kbuild and the compiler are started in."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {"LC_ALL": "C"}


def prepare(kernel: Kernel, log: Log) -> PreparedTree:
    """Configure the kernel's source as the kernel was, and make what every object needs.

    Done once: the result is kept in the kernel's cache, and another process that
    wants it waits.  The shipped ``.config`` and ``include/generated`` say how the
    kernel was built.

    :param log: takes the command lines and their output.
    :raises KlpError: without source or compiler, or when kbuild fails.
    """
    if kernel.source is None:
        raise KlpError(
            "the kernel's source is not at hand",
            where=kernel.name,
            why="A source patch is compiled from the whole source that the kernel was built from.",
            hint=f"klpbuild kernel fetch {kernel.release} --source --debug-symbols",
        )
    compiler = kernel_compiler(kernel)
    build = kernel.cache / "prepared"
    variables = _variables(kernel, compiler, build)
    key = _key(kernel, variables)
    with locked(build, lambda: log("waiting for another process that prepares this kernel")):
        stamp = build / _STAMP
        if not stamp.is_file() or json.loads(stamp.read_text()).get("key") != key:
            shutil.rmtree(build, ignore_errors=True)
            build.mkdir()
            tree = PreparedTree(kernel.source.resolve(), build, compiler, variables, ())
            _build(kernel, tree, log)
            found = {"key": key, "differences": _differences(kernel, build)}
            stamp.write_text(json.dumps(found))
        differences = json.loads(stamp.read_text())["differences"]
    return PreparedTree(kernel.source.resolve(), build, compiler, variables, tuple(differences))


def kernel_compiler(kernel: Kernel) -> str:
    """The compiler that the kernel was built with, as CONFIG_CC_VERSION_TEXT names it.

    :raises KlpError: when this machine does not have it.
    """
    match = re.search(
        r'^CONFIG_CC_VERSION_TEXT="(\S+)', kernel.config.read_text(errors="replace"), re.MULTILINE
    )
    name = match[1] if match else "gcc"
    name = name.rpartition("/")[2]
    if shutil.which(name) is None:
        raise KlpError(
            f"the compiler {name} is not installed",
            where=kernel.name,
            why="A livepatch is compiled with the compiler that built the kernel.",
            hint=f"apt install {name}",
        )
    return name


def _variables(kernel: Kernel, compiler: str, build: Path) -> tuple[str, ...]:
    generated = kernel.build / "include/generated"
    values = {
        "ARCH": kernel.arch.kernel_name,
        "CC": compiler,
        "KERNELRELEASE": kernel.release,
        "LOCALVERSION": "",
        # Asked for its version only; it decides CONFIG_DEBUG_INFO_BTF_MODULES and so
        # the layout of struct module.
        "PAHOLE": str(build / "pahole"),
    }
    package = _defined(generated / "package.h", "LINUX_PACKAGE_ID").split()
    if len(package) == 2:
        values["DISTRIBUTION_OFFICIAL_BUILD"] = "1"
        values["DISTRIBUTOR"], values["DISTRIBUTION_VERSION"] = package
    for variable, name in (("USER", "LINUX_COMPILE_BY"), ("HOST", "LINUX_COMPILE_HOST")):
        if value := _defined(generated / "compile.h", name):
            values[f"KBUILD_BUILD_{variable}"] = value
    return tuple(f"{name}={value}" for name, value in values.items())


def _defined(header: Path, name: str) -> str:
    """The string that a generated header defines, empty without one."""
    if not header.is_file():
        return ""
    match = re.search(rf'^#define\s+{name}\s+"(.*)"$', header.read_text(), re.MULTILINE)
    return match[1] if match else ""


def _key(kernel: Kernel, variables: tuple[str, ...]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {kernel.source} {variables}".encode())
    digest.update(kernel.config.read_bytes())
    return digest.hexdigest()


def _build(kernel: Kernel, tree: PreparedTree, log: Log) -> None:
    config = kernel.config.read_text(errors="replace")
    (tree.build / ".config").write_text(config)
    match = re.search(r"^CONFIG_PAHOLE_VERSION=(\d+)(\d\d)$", config, re.MULTILINE)
    if match:
        pahole = tree.build / "pahole"
        pahole.write_text(f"#!/bin/sh\necho v{match[1]}.{match[2]}\n")
        pahole.chmod(0o755)
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    _run(tree.make("olddefconfig"), kernel, log)
    _run(tree.make(jobs, "prepare"), kernel, log)
    if kernel.module_symvers.is_file():
        shutil.copyfile(kernel.module_symvers, tree.build / "Module.symvers")


def _run(command: list[str], kernel: Kernel, log: Log) -> None:
    log(" ".join(command))
    done = subprocess.run(
        command,
        env=build_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log(done.stdout)
    if done.returncode:
        lines = [
            line for line in done.stdout.splitlines() if re.search(r"rror|not found|\*\*\*", line)
        ]
        raise KlpError(
            f"{' '.join(command[-2:])} fails",
            where=kernel.name,
            why="\n".join(lines[:10]) or done.stdout[-1000:],
            hint="It needs: apt install make gcc bison flex bc libelf-dev libssl-dev",
        )


def _differences(kernel: Kernel, build: Path) -> list[str]:
    """How the configuration that kbuild settled on differs from the kernel's own."""
    ours = _settings(build / ".config")
    theirs = _settings(kernel.config)
    return [
        f"{name} is {ours.get(name, 'not set')}, and {theirs.get(name, 'not set')} in the kernel"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _settings(config: Path) -> dict[str, str]:
    text = config.read_text(errors="replace")
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))
