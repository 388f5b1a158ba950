"""A kernel of a few C files, with a Makefile that answers like kbuild and is built by gcc."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from klpbuild.arch import X86_64
from klpbuild.kernel.tree import Kernel

MAKEFILE = """\
MAKEFLAGS += -rR
ifeq ($(sub),)
.PHONY: run $(MAKECMDGOALS)
$(or $(MAKECMDGOALS),all): run ; @:
run: ; @$(MAKE) -C $(O) -f $(CURDIR)/Makefile sub=1 srctree=$(CURDIR) $(MAKECMDGOALS)
else
export srctree CC
olddefconfig: ; @cat $(srctree)/settled >> .config
prepare:
\t@! test -e $(srctree)/.config || { echo '*** The source tree is not clean'; exit 1; }
\t@mkdir -p include/config scripts/basic
\t@touch include/config/auto.conf
\t@printf '#!/bin/sh\\necho "savedcmd_$$2 := $$3"\\n' > scripts/basic/fixdep
\t@chmod +x scripts/basic/fixdep
%.o: prepare ; @$(MAKE) -f $(srctree)/scripts/Makefile.build obj=. ./$@
endif
"""

MAKEFILE_BUILD = """\
MAKEFLAGS += -rR
VPATH := $(srctree)
flags = -O2 -fno-pie -mcmodel=kernel -fno-asynchronous-unwind-tables -Werror=designated-init \\
	-I$(srctree)/include -I.
flags += $(if $(filter drivers/%,$@),-DMODULE) $(if $(filter drivers/disk/%,$@),-DFOR_DISK)
flags += -g -gdwarf-5 -DKBUILD_BASENAME='"$(basename $(@F))"'
flags += -DKBUILD_MODNAME='"$(if $(filter drivers/disk/%,$@),my_disk,$(basename $(@F)))"'
-include $(if $(filter .,$(obj)),,$(srctree)/$(obj)/Makefile)
real-obj-y := $(addprefix $(obj)/,$(obj-y))
real-obj-m := $(addprefix $(obj)/,$(foreach m,$(obj-m),$(or $($(m:.o=-objs)),$(m))))
cmd = $(CC) -Wp,-MMD,$(@D)/.$(@F).d $(flags) -c -o $@ $(srctree)/$(basename $@).c
quote := '
%.o: %.c
\t@mkdir -p $(@D); $(cmd)
\t@scripts/basic/fixdep x $@ '$(subst $(quote),'\\'',$(cmd))' > $(@D)/.$(@F).cmd
lib/table.o: lib/generated.h
lib/generated.h: ; @mkdir -p lib; echo '#define GENERATED 9' > $@
"""

FILES = {
    "Makefile": MAKEFILE,
    "settled": "",
    "scripts/Makefile.build": MAKEFILE_BUILD,
    "include/linux/kernel.h": """\
#pragma once
#define LIMIT 3
#define WARN() warn(__FILE__, __LINE__)
extern void warn(const char *file, int line);
static inline int doubled(int a)
{
	return 2 * a;
}
""",
    "fs/Makefile": "obj-y := open.o read.o\nobj-y += sub/write.o\n",
    "drivers/disk/Makefile": (
        "obj-m := my-disk.o\nmy-disk-objs := disk.o\n"
        "include $(srctree)/drivers/shared/Makefile.disk\n"
    ),
    "drivers/shared/Makefile.disk": ("SHARED ?= ../shared\nmy-disk-objs += $(SHARED)/part.o\n"),
    "drivers/shared/part.c": """\
#ifndef FOR_DISK
#error "compiled by the rules of another directory"
#endif
#include "part.h"
int part(int n)
{
	return n + PART;
}
""",
    "drivers/shared/part.h": "#define PART 4\n",
    "lib/near.h": "#define NEAR 5\n",
    "net/socket.c": '#include "../lib/near.h"\nint socket(void)\n{\n\treturn NEAR;\n}\n',
    "net/packet.c": '#include "../hop/hop.h"\nint packet(void)\n{\n\treturn FAR;\n}\n',
    "hop/hop.h": '#include "../lib/far.h"\n',
    "lib/far.h": "#define FAR 6\n",
    "drivers/other/Makefile": "# none\n",
    "fs/open.c": """\
#include <linux/kernel.h>

static int count;

int open_file(int number)
{
	if (number > LIMIT)
		WARN();
	return count++;
}

int close_file(int number)
{
	WARN();
	return doubled(count);
}
""",
    "fs/read.c": """\
#include "sub/../read.h"

int read_file(int number)
{
	return READ + number;
}
""",
    "fs/read.h": "#define READ 7\n#define WRITE 8\n",
    "fs/sub/write.c": '#include "../read.h"\n\nint write_file(int number)\n{\n\treturn WRITE;\n}\n',
    "lib/table.c": '#include "lib/generated.h"\nint table(void)\n{\n\treturn GENERATED;\n}\n',
    "kernel/warn.c": """\
#include <linux/kernel.h>
void warn(const char *file, int line)
{
	static int warnings;
	if (line > LIMIT)
		warnings += line + *file;
}
""",
    "drivers/disk/disk.c": """\
int open_file(int);
int probe(int n)
{
	return open_file(n) + 1;
}
""",
    "drivers/not_built.c": "int nothing;\n",
    "tools/program.c": "int main(void) { return 0; }\n",
}
VMLINUX = (
    *("fs/open.o", "fs/read.o", "fs/sub/write.o"),
    *("lib/table.o", "kernel/warn.o", "net/socket.o", "net/packet.o"),
)
MODULE = ("drivers/disk/disk.o", "drivers/disk/../shared/part.o")


@dataclass(frozen=True)
class SmallKernel:
    """The kernel, and the tree that it was built in."""

    kernel: Kernel
    source: Path

    def patch(self, name: str, old: str, new: str) -> str:
        """A patch that replaces text in a source file."""
        text = (self.source / name).read_text()
        assert old in text
        changed = self.source.parent / "changed.txt"
        changed.write_text(text.replace(old, new, 1))
        command = [
            "diff",
            "-u",
            f"--label=a/{name}",
            f"--label=b/{name}",
            self.source / name,
            changed,
        ]
        return str(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def make_kernel(directory: Path, *, config: str = "CONFIG_A=y\n") -> SmallKernel:
    """Build the kernel: vmlinux from all but drivers/, one module."""
    source, build = directory / "source", directory / "build"
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    build.mkdir()
    told = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = told.partition("\n")[0]
    (build / ".config").write_text(f'CONFIG_CC_VERSION_TEXT="{version}"\n{config}')
    (build / "Module.symvers").write_text("")
    objects = [*VMLINUX, *MODULE]
    make = ["make", "-s", "-C", source, f"O={build}", "CC=gcc"]
    subprocess.run([*make, "prepare"], check=True)
    subprocess.run([*make, *objects], check=True)
    vmlinux = directory / "vmlinux"
    link = ["ld", "-Ttext=0xffffffff81000000", "-e", "warn", "-z", "noexecstack", "-o", vmlinux]
    subprocess.run([*link, *(build / name for name in VMLINUX)], check=True)
    module = directory / "modules/kernel/drivers/disk/my-disk.ko"
    module.parent.mkdir(parents=True)
    subprocess.run(["ld", "-r", "-o", module, *(build / name for name in MODULE)], check=True)
    kernel = Kernel(
        name="small",
        release="6.1.0-small",
        version=(6, 1, 0),
        build=build,
        arch=X86_64,
        config=build / ".config",
        module_symvers=build / "Module.symvers",
        modules=(module,),
        vmlinux=vmlinux,
        system_map=None,
        kallsyms=None,
        filter_functions=None,
        image=None,
        source=source,
        cache=directory / "learned",
    )
    return SmallKernel(kernel, source)
