// SPDX-License-Identifier: GPL-2.0-or-later
/* /proc/cmdline ends in " livepatch=1".  Position 0 says: there is one saved_command_line. */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>

struct KLP_MODULE_RELOC(vmlinux) vmlinux_relocs[] = {
	KLP_SYMPOS(saved_command_line, 0)
};

int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s livepatch=1\n", saved_command_line);
	return 0;
}
