// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>

struct proc_inode {
	unsigned int pid;
	struct proc_dir_entry *pde;
};

static struct proc_inode proc_root_inodes[2];

/* fs/inode.c has another. */
static noinline void init_once(void *foo)
{
	struct proc_inode *ei = foo;

	ei->pid = 1;
}

static int __init proc_init_kmemcache(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(proc_root_inodes); i++)
		init_once(&proc_root_inodes[i]);
	return 0;
}
core_initcall(proc_init_kmemcache);
