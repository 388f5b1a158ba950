// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An ambiguous symbol.  The drivers i8042 and atkbd both have a parameter `reset`, and the
 * name of each is in a static __param_str_reset: "i8042.reset" at position 1, "atkbd.reset"
 * at position 2, in vmlinux of 6.1, of 6.12 and of the fixtures.  /proc/cmdline ends in the
 * name that was found.  Without the annotation klpbuild shows both and stops.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>

extern const char __param_str_reset[];

struct KLP_MODULE_RELOC(vmlinux) vmlinux_relocs[] = {
	KLP_SYMPOS(__param_str_reset, 2)
};

int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s homonym=%s\n", saved_command_line, __param_str_reset);
	return 0;
}
