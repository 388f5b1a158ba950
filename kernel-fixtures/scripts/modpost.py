# SPDX-License-Identifier: GPL-2.0-or-later
"""What modpost does for a module: check its symbols, write NAME.mod.c and Module.symvers."""

import argparse
import struct
import sys
import zlib
from pathlib import Path

SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_WEAK = 0, 2
# The compiler and the linker make these themselves.
IGNORED = {"__this_module", "_GLOBAL_OFFSET_TABLE_"}

# MAX_UNRESOLVED_REPORTS of scripts/mod/modpost.c
UNRESOLVED_MAX = 10


class Object:
    """Symbols and .modinfo of an ELF file."""

    def __init__(self, path):
        self.path = Path(path)
        data = self.path.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            sys.exit(f"ERROR: modpost: {path} is not a little-endian 64-bit ELF file")
        offset, count, names = (
            *struct.unpack_from("<Q", data, 40),
            *struct.unpack_from("<HH", data, 60),
        )
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * n) for n in range(count)]

        def contents(header):
            return data[header[4] : header[4] + header[5]]

        def text(table, start):
            return table[start : table.index(b"\0", start)].decode()

        section_names = [text(contents(headers[names]), header[0]) for header in headers]
        self.undefined, self.weak, self.exports, self.defined = [], set(), {}, set()
        for header in headers:
            if header[1] != 2:  # SHT_SYMTAB
                continue
            table, strings = contents(header), contents(headers[header[6]])
            for start, info, _, index, _, _ in struct.iter_unpack("<IBBHQQ", table):
                name, binding = text(strings, start), info >> 4
                if index == SHN_UNDEF and name and name not in IGNORED:
                    (self.weak.add if binding == STB_WEAK else self.undefined.append)(name)
                elif name.startswith("__ksymtab_") and index < SHN_LORESERVE:
                    kind = "_GPL" if "_gpl" in section_names[index] else ""
                    self.exports[name[len("__ksymtab_") :]] = "EXPORT_SYMBOL" + kind
                elif binding != STB_LOCAL:
                    self.defined.add(name)
        self.modinfo = {}
        for header, name in zip(headers, section_names, strict=True):
            if name == ".modinfo":
                for field in contents(header).decode().split("\0"):
                    key, _, value = field.partition("=")
                    self.modinfo.setdefault(key, []).append(value)


def crc(symbol):
    """A stable stand-in for genksyms' checksum of a symbol's type."""
    return zlib.crc32(symbol.encode())


def read_symvers(path):
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    rows = (line.split("\t") for line in lines)
    return {row[1]: (row[2], row[3]) for row in rows}


def mod_c(module, needed, depends):
    init = "\t.init = init_module,\n" if "init_module" in module.defined else ""
    leave = "\t.exit = cleanup_module,\n" if "cleanup_module" in module.defined else ""
    versions = "".join(f'\t{{ {crc(s):#010x}, "{s}" }},\n' for s in ["module_layout", *needed])
    return f"""#include <linux/module.h>
#include <linux/vermagic.h>
#include <linux/compiler.h>

MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);

__visible struct module __this_module
__section(".gnu.linkonce.this_module") = {{
	.name = KBUILD_MODNAME,
{init}{leave}}};

static const struct modversion_info ____versions[]
__used __section("__versions") = {{
{versions}}};

MODULE_INFO(depends, "{",".join(depends)}");
"""


def write_if_different(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", action="append", default=[], help="a Module.symvers to read")
    parser.add_argument("-o", required=True, help="the Module.symvers to write")
    parser.add_argument("-w", action="store_true", help="undefined symbols are warnings")
    parser.add_argument("--vmlinux", help="take the exports of this vmlinux, too")
    parser.add_argument("objects", nargs="*")
    arguments = parser.parse_args()

    modules = [Object(path) for path in arguments.objects]
    known = {}
    for path in arguments.i:
        known.update(read_symvers(path))
    own = {}
    if arguments.vmlinux:
        own |= {s: ("vmlinux", kind) for s, kind in Object(arguments.vmlinux).exports.items()}
    errors = 0
    for module in modules:
        for symbol, kind in module.exports.items():
            if symbol in own or symbol in known:
                owner = (own.get(symbol) or known[symbol])[0]
                print(
                    f"ERROR: modpost: {module.path.with_suffix('')}: '{symbol}' exported twice. "
                    f"Previous export was in {owner}",
                    file=sys.stderr,
                )
                errors += 1
            own[symbol] = (str(module.path.with_suffix("")), kind)
    known |= own

    sources = {}
    unresolved = 0
    for module in modules:
        if "license" not in module.modinfo:
            print(f"ERROR: modpost: missing MODULE_LICENSE() in {module.path}", file=sys.stderr)
            errors += 1
        gpl = any(text.startswith(("GPL", "Dual")) for text in module.modinfo.get("license", []))
        needed, depends = [], []
        for symbol in module.undefined:
            if symbol not in known:
                level = "WARNING" if arguments.w else "ERROR"
                unresolved += 1
                if unresolved <= UNRESOLVED_MAX:
                    print(
                        f'{level}: modpost: "{symbol}" '
                        f"[{module.path.with_suffix('.ko')}] undefined!",
                        file=sys.stderr,
                    )
                errors += not arguments.w
                continue
            owner, kind = known[symbol]
            if kind.endswith("_GPL") and not gpl:
                print(
                    f"ERROR: modpost: GPL-incompatible module {module.path.stem}.ko "
                    f"uses GPL-only symbol '{symbol}'",
                    file=sys.stderr,
                )
                errors += 1
            needed.append(symbol)
            if owner != "vmlinux":
                depends.append(Path(owner).name.replace("-", "_"))
        sources[module.path.with_suffix(".mod.c")] = mod_c(
            module, needed, list(dict.fromkeys(depends))
        )

    if unresolved > UNRESOLVED_MAX:
        # The parenthesis is modpost's own.
        print(
            f"WARNING: modpost: suppressed {unresolved - UNRESOLVED_MAX} unresolved symbol "
            "warnings because there were too many)",
            file=sys.stderr,
        )
    if errors:
        sys.exit(1)
    lines = [f"{crc(s):#010x}\t{s}\t{owner}\t{kind}\t\n" for s, (owner, kind) in own.items()]
    for path, text in {**sources, Path(arguments.o): "".join(lines)}.items():
        write_if_different(path, text)


main()
