// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

struct proc_dir_entry {
	const char *name;
	umode_t mode;
	int (*single_show)(struct seq_file *m, void *v);
	void *data;
};

struct proc_dir_entry *proc_create_single_data(const char *name, umode_t mode,
					       struct proc_dir_entry *parent,
					       int (*show)(struct seq_file *, void *), void *data)
{
	struct proc_dir_entry *entry = kmalloc(sizeof(*entry), GFP_KERNEL);

	if (!entry)
		return NULL;
	entry->name = name;
	entry->mode = mode;
	entry->single_show = show;
	entry->data = data;
	return entry;
}
EXPORT_SYMBOL(proc_create_single_data);
