/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_FS_H
#define _LINUX_FS_H

#include <linux/kernel.h>
#include <linux/list.h>

struct file;
struct inode;
struct seq_file;

struct super_block {
	struct list_head s_list;
	unsigned long s_flags;
	void *s_fs_info;
	char s_id[32];
};

struct file_system_type {
	const char *name;
	int (*init_fs_context)(void *fc);
	void (*kill_sb)(struct super_block *sb);
	struct module *owner;
	struct file_system_type *next;
};

int register_filesystem(struct file_system_type *fs);
int unregister_filesystem(struct file_system_type *fs);

#endif
