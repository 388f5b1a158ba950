"""Small kernels and the apt that offers them, for tests."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = """\
#
# Linux/x86 6.1.170 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
CONFIG_X86_64=y
CONFIG_LIVEPATCH=y
# CONFIG_KASAN is not set
"""
STUB = "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
VERSION_H = """\
#define LINUX_VERSION_CODE 393642
#define LINUX_VERSION_MAJOR 6
#define LINUX_VERSION_PATCHLEVEL 1
#define LINUX_VERSION_SUBLEVEL 170
"""
#: Says where it stands, as the real one finds out.
COMMON_MAKEFILE = """\
srctree := $(realpath $(dir $(lastword $(MAKEFILE_LIST))))
modules:
\t@echo CC=$(CC) ARCH=$(ARCH) M=$(M) symvers=$(wildcard Module.symvers) $(srctree)
\t@env | sort
failing:
	@echo "  gcc-12 -nostdinc -I./include -Werror=strict-prototypes -o x.o x.c"
\t@echo quiet; echo "x.c:3: error: no such thing"; exit 1
"""


def write(path: Path, text: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def prepared_tree(tree: Path, release: str, config: str = CONFIG) -> Path:
    """What a tree needs so that modules can be built against it."""
    write(tree / "Makefile", COMMON_MAKEFILE)
    write(tree / ".config", config)
    write(tree / "Module.symvers", "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n")
    write(tree / "include/generated/utsrelease.h", f'#define UTS_RELEASE "{release}"\n')
    write(tree / "include/generated/uapi/linux/version.h", VERSION_H)
    write(tree / "include/config/kernel.release", "6.1.170\n")
    return tree


def headers_files(release: str, common: str) -> dict[str, str]:
    """The files of Debian's headers package, by their path below ``/``."""
    tree = f"usr/src/linux-headers-{release}"
    return {
        f"{tree}/Makefile": f"include /usr/src/{common}/Makefile\n",
        f"{tree}/.config": CONFIG,
        f"{tree}/Module.symvers": "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
        f"{tree}/include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        f"{tree}/include/generated/uapi/linux/version.h": VERSION_H,
        f"{tree}/include/config/kernel.release": "6.1.170\n",
    }


def image_files(release: str) -> dict[str, str]:
    return {
        f"boot/vmlinuz-{release}": "image",
        f"boot/System.map-{release}": STUB,
        f"lib/modules/{release}/kernel/fs/ext4/ext4.ko": "module",
        f"lib/modules/{release}/kernel/drivers/net/tun.ko": "module",
    }


@dataclass
class Machine:
    """A machine with an apt that offers packages made by `offer`."""

    pool: Path
    programs: Path
    offers: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path) -> Machine:
        machine = cls(directory / "pool", directory / "programs")
        machine.pool.mkdir(parents=True)
        machine.programs.mkdir()
        script = Path(__file__).with_name("fake_apt.py")
        for name in ("apt-get", "apt-cache"):
            program = write(
                machine.programs / name,
                f'#!/bin/sh\nexec {sys.executable} {script} {machine.pool} {name} "$@"\n',
            )
            program.chmod(0o755)
        machine.settle()
        return machine

    def settle(self) -> None:
        write(self.pool / "offers.json", json.dumps(self.offers))

    @property
    def calls(self) -> list[str]:
        path = self.pool / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def offer(
        self, name: str, version: str, files: dict[str, str], depends: str = "", **more: object
    ) -> dict[str, object]:
        """Offer a package; it becomes a real ``.deb`` file."""
        tree = self.pool / f"{name}_{version}"
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        write(tree / "DEBIAN/control", f"{control}Maintainer: none\nDescription: test\n")
        for path, text in files.items():
            write(tree / path, text)
        package = self.pool / f"{name}_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, package],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(tree)
        offer: dict[str, object] = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Installed-Size": "1",
            "Depends": depends,
            "Filename": package.name,
            "Size": str(package.stat().st_size),
            "SHA256": hashlib.sha256(package.read_bytes()).hexdigest(),
            **more,
        }
        self.offers.append(offer)
        self.settle()
        return offer

    def offer_kernel(
        self, release: str, version: str, *, unsigned: bool = True, kbuild: str = ""
    ) -> None:
        """Offer a kernel as Debian 12 does: image, headers, debug symbols."""
        base = release.split("-cloud")[0].removesuffix("-amd64")
        common, suffix = f"linux-headers-{base}-common", "-unsigned" if unsigned else ""
        self.offer(f"linux-image-{release}{suffix}", version, image_files(release))
        self.offer(
            f"linux-headers-{release}",
            version,
            headers_files(release, common),
            f"{common} (= {version}), linux-kbuild-6.1{kbuild}, gcc-12",
        )
        self.offer(common, version, {f"usr/src/{common}/Makefile": COMMON_MAKEFILE})
        self.offer(
            f"linux-image-{release}-dbg",
            version,
            {
                f"usr/lib/debug/boot/vmlinux-{release}": "vmlinux",
                f"usr/lib/debug/boot/System.map-{release}": "ffffffff81000000 T _stext\n",
                f"usr/lib/debug/lib/modules/{release}/kernel/fs/ext4/ext4.ko": "debug",
            },
        )

    def offer_elsewhere(self, suite: str) -> None:
        """Let all that is offered so far be another suite's, which the mirror has."""
        write(self.pool / "mirror")
        for offer in self.offers:
            offer["fake-suite"] = suite
        self.settle()

    def offer_split_kernel(self, release: str, version: str, *, modules: bool = True) -> None:
        """Offer a kernel as Debian does since 6.19: its image is empty and needs others."""
        self.offer_kernel(release, version, unsigned=False)
        image = next(o for o in self.offers if o["Package"] == f"linux-image-{release}")
        self.offers.remove(image)
        names = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
        depends = ", ".join(f"{name} (= {version})" for name in names)
        self.offer(f"linux-image-{release}", version, {}, depends)
        files = image_files(release)
        kernel = {p: text for p, text in files.items() if p.endswith(".ko")}
        directory = f"usr/lib/modules/{release}"
        self.offer(names[0], version, {f"{directory}/System.map": STUB})
        self.offer(names[1], version, {f"{directory}/vmlinuz": "signed"})
        unsigned = names[1].replace("binary", "binary-unsigned")
        self.offer(unsigned, version, {f"{directory}/vmlinuz.unsigned": "unsigned"})
        moved = {f"usr/{path}": text for path, text in kernel.items()} if modules else {}
        self.offer(names[2], version, moved)

    def offer_kbuild(self, version: str) -> None:
        files = {"usr/lib/linux-kbuild-6.1/scripts/version": version}
        self.offer("linux-kbuild-6.1", version, files)
