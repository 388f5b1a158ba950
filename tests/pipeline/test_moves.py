"""A patch that moves, renames and makes global what the running kernel has."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.trial import Wanted, boot_livepatch
from tests.pipeline.livepatches import written

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

MOVED = """\
void get_avenrun(unsigned long *loads, unsigned long offset, int shift)
{
	loads[0] = (avenrun[0] + offset) << shift;
	loads[1] = (avenrun[1] + offset) << shift;
	loads[2] = (avenrun[2] + offset) << shift;
}
"""
SHOW = "static int uptime_proc_show(struct seq_file *m, void *v)\n{\n"
#: By file: what is replaced, everywhere.
CHANGES = {
    "kernel/sched/loadavg.c": {MOVED: ""},
    "kernel/sys.c": {
        "static int do_sysinfo(": MOVED.replace("[0] + offset", "[0] + offset + 7 * FIXED_1")
        + "\nstatic int do_sysinfo("
    },
    "drivers/char/misc.c": {
        "misc_list": "misc_devices",
        "static LIST_HEAD(misc_devices);": "struct list_head misc_devices ="
        " LIST_HEAD_INIT(misc_devices);",
        '"%3i %s\\n"': '"%3i  %s\\n"',
    },
    # static, and not the only one of its name
    "fs/proc/task_mmu.c": {"static void m_stop(": "void m_stop("},
    "fs/proc/uptime.c": {
        SHOW: "extern struct list_head misc_devices;\nvoid m_stop(struct seq_file *, void *);\n"
        + SHOW
        + "\tif (list_empty(&misc_devices))\n\t\tm_stop(m, v);\n"
        '\telse\n\t\tseq_puts(m, "devices ");\n'
    },
    # x86 has one that is not weak
    "drivers/pci/pci.c": {
        "pcibios_penalize_isa_irq(int irq, int active) {}": "pcibios_penalize_isa_irq(int irq,"
        ' int active) { pr_info("%d\\n", irq); }'
    },
}


def test_it_works_on_what_the_kernel_has(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    patch = written(debian_source_kernel, CHANGES, tmp_path)
    module, extracted = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    names = {s.name for s in ElfFile.read(module).symbol_list}
    assert ".klp.sym.vmlinux.misc_list,0" in names
    assert any(name.startswith(".klp.sym.vmlinux.m_stop,") for name in names)
    assert ".klp.sym.vmlinux.m_stop,0" not in names
    assert "misc_devices" not in names
    replaced = {f.old for patched in extracted.functions for f in patched.functions}
    assert replaced >= {"get_avenrun", "misc_seq_show", "uptime_proc_show"}
    assert "pcibios_penalize_isa_irq" not in replaced
    assert any("pcibios_penalize_isa_irq: changes nothing" in line for line in extracted.report)

    watched = ["/proc/loadavg", "/proc/misc", "/proc/uptime"]
    trial = boot_livepatch(debian_source_kernel, Wanted([module], watch=watched))
    assert trial.problems == ()
    load, devices, uptime = (file.patched or "" for file in trial.files)
    assert load.startswith("7.")
    assert "228  hpet" in devices
    assert uptime.startswith("devices ")


#: What is new in a module calls what that has, and only code of another module calls it.
NEW = {
    "net/sctp/socket.c": {
        "int sctp_for_each_endpoint(": "int klp_count(void *p);\nint klp_count(void *p)\n{\n"
        "\tsctp_get_sctp_info(NULL, NULL, p);\n\treturn sctp_ep_hashsize;\n}\n"
        "int sctp_for_each_endpoint("
    },
    "net/sctp/diag.c": {
        "#include <net/sctp/sctp.h>": "#include <net/sctp/sctp.h>\nint klp_count(void *p);",
        "if (!net_eq(sock_net(sk), net))": "if (!net_eq(sock_net(sk), net) || !klp_count(p))",
    },
}


def test_what_is_new_in_a_module_of_which_nothing_changes(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    patch = written(debian_source_kernel, NEW, tmp_path)
    module, extracted = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    assert [(p.name, len(p.functions)) for p in extracted.functions] == [
        ("sctp", 0),
        ("sctp_diag", 1),
    ]
    sections = {section.name for section in ElfFile.read(module).sections}
    assert any(name.startswith(".klp.rela.sctp.") for name in sections)
    trial = boot_livepatch(debian_source_kernel, Wanted([module]))
    assert trial.problems == ()
