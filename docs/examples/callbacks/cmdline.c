// SPDX-License-Identifier: GPL-2.0-or-later
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/init.h>
#include <linux/livepatch.h>
#include <linux/seq_file.h>

int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s patched\n", saved_command_line);
	return 0;
}

int before(struct klp_object *object)
{
	pr_info("%s: about to be patched\n", object->name ?: "vmlinux");
	return 0; /* anything else: the livepatch is not loaded */
}

void after(struct klp_object *object)
{
	pr_info("%s: no longer patched\n", object->name ?: "vmlinux");
}
