"""Read the variables that packagers know, from the command line or the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.given import is_file
from klpbuild.kernel.kbuild import read_epoch
from klpbuild.kernel.tree import Toolchain
from klpbuild.package.compression import Compression
from klpbuild.package.signing import check_hash, is_token

_YES = ("1", "y", "yes", "true", "on")
_NO = ("0", "n", "no", "false", "off")


@dataclass(frozen=True)
class Variable:
    """A variable, explained.

    :ivar default: what holds without it.
    :ivar option: the option in lower case that is the same thing, else empty.
    """

    name: str
    help: str
    default: str
    example: str
    option: str = ""


# fmt: off
VARIABLES = (
    Variable("KVER", "release of the kernel: a fetched one, or /lib/modules/KVER/build", "kernel=",
        "KVER=6.1.0-47-cloud-amd64", "kernel"),
    Variable("KDIR", "headers or build tree of the kernel; with KVER, it must be of that release",
        "/lib/modules/KVER/build", "KDIR=/usr/src/linux-headers-6.1.0-47-cloud-amd64", "kernel"),
    Variable("KSRC", "source tree of the kernel, for livepatches made from patches",
        "that of the fetched kernel, or of the build tree", "KSRC=/usr/src/linux-source-6.1"),
    Variable("VMLINUX", "the same as vmlinux=", "the kernel's own",
        "VMLINUX=/usr/lib/debug/boot/vmlinux-6.1.0-47-amd64", "vmlinux"),
    Variable("SYSTEM_MAP", "the same as system_map=", "the kernel's own",
        "SYSTEM_MAP=/boot/System.map-6.1.0", "system_map"),
    Variable("ARCH", "architecture as kbuild names it; it must be the kernel's", "the kernel's",
        "ARCH=x86_64"),
    Variable("CROSS_COMPILE", "what the names of the tools begin with",
        "none, or that of a foreign kernel's architecture", "CROSS_COMPILE=aarch64-linux-gnu-"),
    Variable("CC", "compiler, perhaps with a launcher before it",
        "the one nearest to that which built the kernel", "CC='ccache gcc-12'"),
    Variable("KCFLAGS", "compiler flags after the kernel's own, as kbuild takes them", "none",
        "KCFLAGS=-Wextra"),
    Variable("PREFIX", "directory that lib/modules is in", "/", "PREFIX=/usr"),
    Variable("DESTDIR", "directory that install takes for the root of the system",
        "none: the running system", "DESTDIR=debian/tmp"),
    Variable("SIGN_KEY",
        "private key that signs: a PEM file or a pkcs11: URI; KBUILD_SIGN_PIN in the\n"
        "environment is its passphrase or PIN", "none: modules are not signed",
        "SIGN_KEY=~/keys/livepatch.pem"),
    Variable("SIGN_CERT", "X.509 certificate of SIGN_KEY, PEM or DER",
        "SIGN_KEY, when it holds one", "SIGN_CERT=~/keys/livepatch.x509"),
    Variable("SIGN_HASH", "digest that is signed: sha256, sha384, sha512, ...",
        "CONFIG_MODULE_SIG_HASH of the kernel", "SIGN_HASH=sha512"),
    Variable("STRIP", "leave debug data out of the modules, 1 or 0", "1", "STRIP=0"),
    Variable("COMPRESS", "compress the modules: none, xz, zstd or gzip",
        "as the kernel's configuration says (CONFIG_MODULE_COMPRESS_*)", "COMPRESS=zstd"),
    Variable("REPLACE", "whether a livepatch takes the place of all before it, 1 or 0",
        "as its livepatch.toml says", "REPLACE=0"),
    Variable("SOURCE_DATE_EPOCH",
        "seconds since 1970: the time that installed files and packages get",
        "none: the time of the build, which the modules do not hold",
        "SOURCE_DATE_EPOCH=1700000000"),
)
# fmt: on

NAMES = tuple(variable.name for variable in VARIABLES)


@dataclass(frozen=True)
class Variables:
    """The parsed variables.

    :ivar kernel: what ``kernel=`` would say, None when KVER and KDIR are not given.
    :ivar release: the release that KDIR must have, empty for any.
    :ivar source: KSRC.
    :ivar vmlinux: VMLINUX or ``vmlinux=``, empty for the kernel's own.
    :ivar system_map: SYSTEM_MAP or ``system_map=``, empty for the kernel's own.
    :ivar kallsyms: ``kallsyms=``, empty for the kernel's own.
    :ivar toolchain: ARCH, CROSS_COMPILE, CC and KCFLAGS.
    :ivar prefix: PREFIX: empty, or absolute without ``/`` at its end.
    :ivar destdir: DESTDIR, absolute; None for the running system.
    :ivar sign_key: SIGN_KEY, a path or a ``pkcs11:`` URI; empty: nothing is signed.
    :ivar sign_cert: SIGN_CERT, or SIGN_KEY where that is a file.
    :ivar sign_hash: SIGN_HASH, empty for the kernel's own.
    :ivar strip: whether debug data is left out.
    :ivar compress: COMPRESS, None for the kernel's own.
    :ivar replace: REPLACE, None for what the livepatches say.
    :ivar source_date_epoch: seconds since 1970.
    """

    kernel: str | None = None
    release: str = ""
    source: Path | None = None
    vmlinux: str = ""
    system_map: str = ""
    kallsyms: str = ""
    toolchain: Toolchain = field(default_factory=Toolchain)
    prefix: str = ""
    destdir: Path | None = None
    sign_key: str = ""
    sign_cert: Path | None = None
    sign_hash: str = ""
    strip: bool = True
    compress: Compression | None = None
    replace: bool | None = None
    source_date_epoch: int | None = None

    @property
    def symbols(self) -> dict[str, Path]:
        """The sources of vmlinux' symbols that are named, by their options."""
        given = {key: getattr(self, key) for key in ("vmlinux", "system_map", "kallsyms")}
        return {key: Path(value) for key, value in given.items() if value}


def read_variables(
    command_line: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> Variables:
    """Read the variables; what the command line says wins over the environment.

    An empty value on the command line is one that is not given, and hides the
    environment's, as make has it.

    :param command_line: names and values, also of the options in lower case.
    :raises KlpError: with every value that cannot be understood.
    """
    problems = Problems()
    _check_said_once(command_line, problems)
    values = {name: environment.get(name, "") for name in NAMES}
    if any(name in command_line for name in ("kernel", "KVER", "KDIR")):
        values["KVER"] = values["KDIR"] = ""  # the environment's other half must not mix in
    values |= {name: command_line[name] for name in NAMES if name in command_line}
    for name in ("vmlinux", "system_map"):
        values[name.upper()] = command_line.get(name, values[name.upper()])

    key, certificate = values["SIGN_KEY"], values["SIGN_CERT"]
    with problems.collect():
        _check_key(key, certificate)
    with problems.collect():
        check_hash(values["SIGN_HASH"])
    with problems.collect():
        prefix = _prefix(values["PREFIX"])
    with problems.collect():
        destdir = _destdir(values["DESTDIR"])
    with problems.collect():
        source = _source(values["KSRC"])
    with problems.collect():
        strip = read_boolean("STRIP", values["STRIP"])
    with problems.collect():
        replace = read_boolean("REPLACE", values["REPLACE"])
    with problems.collect():
        compress = _compression(values["COMPRESS"])
    with problems.collect():
        epoch = read_epoch(values["SOURCE_DATE_EPOCH"])
    problems.check()
    kver, kdir = values["KVER"], values["KDIR"]
    return Variables(
        kernel=str(_path(kdir)) if kdir else kver or None,
        release=kver if kdir else "",
        source=source,
        vmlinux=values["VMLINUX"],
        system_map=values["SYSTEM_MAP"],
        toolchain=Toolchain(
            values["ARCH"], values["CROSS_COMPILE"], values["CC"], values["KCFLAGS"]
        ),
        prefix=prefix,
        destdir=destdir,
        sign_key=key if is_token(key) or not key else str(Path(key).expanduser()),
        sign_cert=Path(certificate or key).expanduser() if key else None,
        sign_hash=values["SIGN_HASH"],
        strip=strip is not False,
        compress=compress,
        replace=replace,
        source_date_epoch=epoch,
    )


def _check_said_once(command_line: Mapping[str, str], problems: Problems) -> None:
    """Refuse an option in lower case beside its variable; KVER and KDIR may stand together."""
    for variable in VARIABLES:
        if variable.option in command_line and variable.name in command_line:
            problems.add(
                f"{variable.option}= and {variable.name}= are both given",
                why="They are the same thing in two spellings.",
                hint="Give one of them.",
            )


def _check_key(key: str, certificate: str) -> None:
    if certificate and not key:
        raise KlpError(
            "no key is given, so nothing would be signed",
            where=f"SIGN_CERT={certificate}",
            hint="Give SIGN_KEY, too, or leave SIGN_CERT out.",
        )
    if is_token(key) and not certificate:
        raise KlpError(
            "a key of a token needs its certificate", where="SIGN_KEY", hint="SIGN_CERT=FILE"
        )
    if is_token(key) and "pin-value=" in key:
        raise KlpError(
            "holds a PIN, which every user of the machine can read",
            where="SIGN_KEY",
            hint="Take pin-value out, and set KBUILD_SIGN_PIN in the environment.",
        )


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _prefix(text: str) -> str:
    if text and not text.startswith("/"):
        raise KlpError(
            "is not absolute", where=f"PREFIX={text}", hint="Say PREFIX=/usr, for example."
        )
    # It stands in scripts of packages.
    if not re.fullmatch(r"[A-Za-z0-9/._+~@-]*", text) or ".." in text.split("/"):
        raise KlpError(
            "cannot be a directory of packages",
            where=f"PREFIX={text}",
            why="It has letters, digits and / . _ + ~ @ - only, and no part '..'.",
        )
    return text.rstrip("/")


def _destdir(text: str) -> Path | None:
    if not text:
        return None
    path = _path(text)
    try:
        good = path.is_dir() or not path.exists()
    except OSError as error:
        raise KlpError(f"cannot be used: {error.strerror}", where=f"DESTDIR={text}") from error
    if not good:
        raise KlpError("is not a directory", where=f"DESTDIR={text}")
    return path


def _source(text: str) -> Path | None:
    if not text:
        return None
    path = _path(text)
    if not is_file(path / "scripts" / "Makefile.build"):
        raise KlpError(
            "is not a kernel's source tree",
            where=f"KSRC={text}",
            why="It has no scripts/Makefile.build.",
        )
    return path


def read_boolean(name: str, text: str) -> bool | None:
    """Parse a variable that is 1 or 0; None for nothing.

    :raises KlpError: for another word.
    """
    if text and text.lower() not in (*_YES, *_NO):
        raise KlpError("is neither 1 nor 0", where=f"{name}={text}")
    return text.lower() in _YES if text else None


def _compression(text: str) -> Compression | None:
    if text and text not in tuple(Compression):
        raise KlpError(
            "is not a compression",
            where=f"COMPRESS={text}",
            hint=f"Known: {', '.join(Compression)}.",
        )
    return Compression(text) if text else None
