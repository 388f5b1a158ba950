// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/init.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

/* kernel/ksysfs.c has another. */
static int version_show(struct seq_file *m, void *v)
{
	seq_puts(m, linux_banner);
	return 0;
}

static int __init proc_version_init(void)
{
	proc_create_single("version", 0, NULL, version_show);
	return 0;
}
fs_initcall(proc_version_init);
