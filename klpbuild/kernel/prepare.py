"""Prepare the kernel's source to compile one object at a time, as the kernel was built."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from klpbuild.distro.tools import compiler_packages
from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import remove_tree, remove_unfinished, write_file
from klpbuild.kernel.cache import locked, remove_outlived
from klpbuild.kernel.cleansource import is_clean, link_sources
from klpbuild.kernel.config import RANDSTRUCT_SEED
from klpbuild.kernel.kbuild import (
    check_make_path,
    cross_prefix,
    find_compiler,
    llvm_variables,
    shortened,
    telling_lines,
)
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel, Toolchain
from klpbuild.run import run
from klpbuild.terminal.stopwatch import measured

#: Callback that takes a line for the build log.
Log = Callable[[str], None]

#: Version of what `prepare` makes.
_FORMAT = 4
_STAMP = ".klpbuild-prepared"
_EXPORTED = ".klpbuild-environment"
_KEPT = ".klpbuild"
_HASHED_SEED = "include/generated/randstruct_hash.h"
_AUTOCONF = "include/generated/autoconf.h"
#: What kbuild notes of a Rust compiler and of OpenSSL here.  C code sees CONFIG_RUST as the
#: kernel has it, see `_define_rust`; the rest changes none.
_NO_C_CODE = ("CONFIG_RUST", "CONFIG_BINDGEN_", "CONFIG_OPENSSL_SUPPORTS_")
_MAKES_OWN = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
#: Variables that a build gets from the caller; CFLAGS, MAKEFLAGS and the like would change it.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "USER")


@dataclass(frozen=True)
class PreparedTree:
    """A build directory in which kbuild makes single objects.

    :ivar source: the source tree, which stays as it is; links to its files when the kernel
        was built in it.
    :ivar build: kbuild's ``O=``.
    :ivar compiler: ``CC=``.
    :ivar variables: what kbuild is called with, besides ``O=``.
    :ivar differences: configuration that differs from the kernel's, one line each.
    :ivar objtool: objtool with its arguments for code of a module, to be run in `build`
        with the object as last argument; empty for a kernel without objtool.
    :ivar objtool_runs_late: whether the kernel's build runs objtool on linked objects only
        (scripts/Makefile.lib, delay-objtool), not on each one.
    """

    source: Path
    build: Path
    compiler: str
    variables: tuple[str, ...]
    differences: tuple[str, ...]
    objtool: tuple[str, ...]
    objtool_runs_late: bool

    @property
    def kept(self) -> Path:
        """A directory for records of this tree; it goes when the tree is made anew."""
        return self.build / _KEPT

    @property
    def environment(self) -> dict[str, str]:
        """The variables that kbuild's top Makefile exports to the one that makes objects."""
        words = (self.build / _EXPORTED).read_text(errors="surrogateescape").split("\0")
        pairs = (word.partition("=") for word in words)
        return {name: value for name, _, value in pairs if name and not name.startswith(_MAKES_OWN)}

    def make(self, *targets: str) -> list[str]:
        """Build the command line that makes targets."""
        command = ["make", "-C", str(self.source), f"O={self.build}", "--no-print-directory"]
        return [*command, *self.variables, *targets]


def build_environment() -> dict[str, str]:
    """Select the environment that kbuild and the compiler are started in."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {"LC_ALL": "C"}


@measured("prepare the source")
def prepare(kernel: Kernel, log: Log) -> PreparedTree:
    """Configure the kernel's source as the kernel was, and make what every object needs.

    Done once for each tool chain that is named: the result is kept in the kernel's cache, and
    another process that wants it waits.  The shipped ``.config`` and ``include/generated``
    say how the kernel was built.

    :param log: takes the command lines and their output.
    :raises KlpError: without source or compiler, or when kbuild fails.
    """
    own = source_tree(kernel).resolve()
    check_make_path(own)
    clean = is_clean(own, kernel.arch.kernel_name)
    tools = _digest(kernel.toolchain)
    source = own if clean else (kernel.cache / f"source{tools}").resolve()
    compiler = kernel_compiler(kernel)
    build = kernel.cache / f"prepared{tools}"
    variables = _variables(kernel, compiler, build)
    key = _key(kernel, source, variables)
    with locked(build):
        stamp = build / _STAMP
        found = read_record(stamp, partial(from_json, _Prepared))
        if found is None or found.key != key or not (build / _EXPORTED).is_file():
            remove_tree(stamp)  # first: a tree of which half is gone must not look ready
            remove_tree(build)
            build.mkdir()
            if not clean:
                link_sources(own, source)
            remove_outlived(kernel.cache)
            tree = PreparedTree(source, build, compiler, variables, (), (), False)
            _build(kernel, tree, log)
            found = _Prepared(key, _differences(kernel, build), *_objtool(tree))
            write_file(stamp, to_json(found))
        remove_unfinished(kernel.cache, 0)
        remove_unfinished(build / _KEPT)
    return PreparedTree(
        source, build, compiler, variables, found.differences, found.objtool, found.late
    )


@dataclass(frozen=True)
class _Prepared:
    """Record of a prepared tree: all that it depends on, and the fields of `PreparedTree`."""

    key: str
    differences: tuple[str, ...]
    objtool: tuple[str, ...]
    late: bool


def check_patches(kernel: Kernel) -> None:
    """Refuse a kernel for which no source patch can be built, with whatever compiler.

    :raises KlpError: where instructions are not known, or what the compiler makes of variables.
    """
    kernel.arch.decoded(kernel.name)
    settings = _settings(kernel.config)
    if settings.get("CONFIG_KASAN_GENERIC") == settings.get("CONFIG_CC_IS_CLANG") == "y":
        raise KlpError(
            "CONFIG_KASAN_GENERIC is set, and clang built it: no patch can be built",
            where=kernel.name,
            why="What gcc puts between variables for KASAN is known here, and clang's is not.",
            hint="Write the livepatch by hand, or use a kernel without it.",
        )


def kernel_compiler(kernel: Kernel) -> str:
    """Find the compiler for source patches: the user's, else of the version that built the kernel.

    :returns: its name, for ``CC=``.
    :raises KlpError: when this machine has none of that version, or `check_patches` refuses.
    """
    check_patches(kernel)
    found = find_compiler(kernel)
    if not kernel.toolchain.cc and not found.is_kernels_version:
        bring = f"Run `klpbuild kernel fetch {kernel.release}`, which brings it.\n"
        packages = " ".join(compiler_packages(found.kernel_version))
        package = f"Install {packages}, or name" if packages else "Name"
        raise KlpError(
            "the compiler that built this kernel is not on this machine",
            where=kernel.name,
            why=f"It was built by {found.kernel_version}; here is {found.version}.\n"
            "A patch is compiled with the compiler that built the kernel, so that all that it "
            "does not change comes out the same.",
            hint=(bring if kernel.package_version else "") + f"{package} the compiler with CC=.",
        )
    return found.command


def _digest(toolchain: Toolchain) -> str:
    """Compute what tells the trees of several tool chains apart; empty for the kernel's own."""
    named = replace(toolchain, launcher="")
    if named == Toolchain():
        return ""
    return f"-{hashlib.sha256(repr(named).encode()).hexdigest()[:12]}"


def _variables(kernel: Kernel, compiler: str, build: Path) -> tuple[str, ...]:
    generated = kernel.build / "include/generated"
    values = {
        "ARCH": kernel.toolchain.arch or kernel.arch.kernel_name,
        "CC": compiler,
        "KERNELRELEASE": kernel.release,
        "LOCALVERSION": "",
        # Asked for its version only; it decides CONFIG_DEBUG_INFO_BTF_MODULES and so
        # the layout of struct module.
        "PAHOLE": str(build / "pahole"),
    }
    if not _has_rust(kernel):
        # Debian builds without it, and the version that is found goes into the configuration.
        values["RUSTC"] = "no-rustc"
    if prefix := cross_prefix(kernel):
        values["CROSS_COMPILE"] = prefix
    values |= llvm_variables(kernel, compiler)
    if kernel.toolchain.kcflags:
        values["KCFLAGS"] = kernel.toolchain.kcflags
    package = _defined(generated / "package.h", "LINUX_PACKAGE_ID").split()
    if len(package) == 2:
        values["DISTRIBUTION_OFFICIAL_BUILD"] = "1"
        values["DISTRIBUTOR"], values["DISTRIBUTION_VERSION"] = package
    for variable, name in (("USER", "LINUX_COMPILE_BY"), ("HOST", "LINUX_COMPILE_HOST")):
        if value := _defined(generated / "compile.h", name):
            values[f"KBUILD_BUILD_{variable}"] = value
    return tuple(f"{name}={value}" for name, value in values.items())


def _defined(header: Path, name: str) -> str:
    """Read the string that a generated header defines, empty without one."""
    if not header.is_file():
        return ""
    match = re.search(rf'^#define\s+{name}\s+"(.*)"$', header.read_text(), re.MULTILINE)
    return match[1] if match else ""


def _key(kernel: Kernel, source: Path, variables: tuple[str, ...]) -> str:
    form = f"{_FORMAT} rust" if _has_rust(kernel) else _FORMAT
    digest = hashlib.sha256(f"{form} {source} {variables}".encode())
    digest.update(kernel.config.read_bytes())
    for path in _seed_files(kernel):
        digest.update(path.read_bytes())
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
    if seed_files := _seed_files(kernel):
        # kbuild makes a seed at random first of all, and no other as long as that is there.
        _run(tree.make("scripts_basic"), kernel, log)
        for path in seed_files:
            shutil.copyfile(path, tree.build / path.relative_to(kernel.module_symvers.parent))
    _run(tree.make(jobs, "prepare"), kernel, log)
    # Another target of the top Makefile, which calls itself once to go to the build
    # directory: there the rule sees all that is exported to Makefile.build.
    rule = f"klpbuild-environment: prepare ; @env -0 > {_EXPORTED}"
    wanted = "$(if $(filter-out 0,$(MAKELEVEL)),$(filter klpbuild-environment,$(MAKECMDGOALS)))"
    goal = f"$(if {wanted},$(eval {rule}))"
    _run(tree.make(f"--eval={goal}", "klpbuild-environment"), kernel, log)
    _define_rust(kernel, tree.build)
    if kernel.module_symvers.is_file():
        shutil.copyfile(kernel.module_symvers, tree.build / "Module.symvers")


def _seed_files(kernel: Kernel) -> tuple[Path, ...]:
    """List the files by which structures are laid out at random, if they are."""
    if _settings(kernel.config).get("CONFIG_RANDSTRUCT") != "y":
        return ()
    return tuple(kernel.module_symvers.parent / name for name in (RANDSTRUCT_SEED, _HASHED_SEED))


def _has_rust(kernel: Kernel) -> bool:
    return _settings(kernel.config).get("CONFIG_RUST") == "y"


def _define_rust(kernel: Kernel, build: Path) -> None:
    """Define the options of Rust that the kernel has for C code, without a Rust compiler.

    kbuild leaves them out then, and C code asks for CONFIG_RUST (``%pA`` in lib/vsprintf.c).
    Nothing of Rust is compiled.
    """
    header, ours = build / _AUTOCONF, _settings(build / ".config")
    lines = [
        f"#define {name} 1\n"
        for name, value in _settings(kernel.config).items()
        if re.match(r"CONFIG_RUST(_|$)", name) and value == "y" and name not in ours
    ]
    if lines and header.is_file():
        write_file(header, header.read_bytes() + "".join(lines).encode())


def _run(command: list[str], kernel: Kernel, log: Log) -> None:
    log(" ".join(command))
    done = run(command, build_environment(), together=True)
    log(done.stdout)
    if done.returncode:
        lines = [shortened(line) for line in telling_lines(done.stdout.splitlines())]
        raise KlpError(
            f"{' '.join(command[-2:])} fails",
            where=kernel.name,
            why="\n".join(lines[:10]) or done.stdout[-1000:],
            hint="It needs: apt install make gcc bison flex bc libelf-dev libssl-dev",
        )


_OBJTOOL_PROBE = """\
include include/config/auto.conf
include $(srctree)/scripts/Kbuild.include
include $(srctree)/scripts/Makefile.lib
klpbuild: ; @echo objtool $(objtool) $(objtool-args-y) && echo late $(delay-objtool)
"""


def _objtool(tree: PreparedTree) -> tuple[tuple[str, ...], bool]:
    """Ask kbuild how it runs objtool on the objects of a module."""
    if not (tree.build / "tools/objtool/objtool").is_file():
        return (), False
    values = {"srctree": str(tree.source), "objtree": ".", "obj": "klpbuild", "src": "klpbuild"}
    command = ["make", "-s", "-f", "-", "klpbuild", *(f"{k}={v}" for k, v in values.items())]
    done = run(command, build_environment() | values, tree.build, input=_OBJTOOL_PROBE)
    lines = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    late = bool(lines.get("late", "").strip())
    return (*lines.get("objtool", "").split(), *(["--link"] if late else []), "--module"), late


def _differences(kernel: Kernel, build: Path) -> tuple[str, ...]:
    """List how the configuration that kbuild settled on differs from the kernel's own."""
    ours = _settings(build / ".config")
    theirs = _settings(kernel.config)
    return tuple(
        f"{name} is {ours.get(name, 'not set')}, and {theirs.get(name, 'not set')} in the kernel"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not name.startswith(_NO_C_CODE)
    )


def _settings(config: Path) -> dict[str, str]:
    text = config.read_text(errors="replace")
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))
