// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Both of two symbols of one name, told apart by the other annotation: see the livepatch
 * homonym.  /proc/cmdline ends in "homonyms=i8042.reset,atkbd.reset".
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>

extern const char i8042_name[] KLP_RELOC_SYMBOL(vmlinux, vmlinux, __param_str_reset, 1);
extern const char atkbd_name[] KLP_RELOC_SYMBOL(vmlinux, vmlinux, __param_str_reset, 2);

int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s homonyms=%s,%s\n", saved_command_line, i8042_name, atkbd_name);
	return 0;
}
