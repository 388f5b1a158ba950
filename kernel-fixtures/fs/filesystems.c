// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/string.h>

static struct file_system_type *file_systems;

static struct file_system_type **find_filesystem(const char *name)
{
	struct file_system_type **p;

	for (p = &file_systems; *p; p = &(*p)->next)
		if (!strcmp((*p)->name, name))
			break;
	return p;
}

int register_filesystem(struct file_system_type *fs)
{
	struct file_system_type **p = find_filesystem(fs->name);

	if (*p)
		return -EBUSY;
	*p = fs;
	return 0;
}
EXPORT_SYMBOL(register_filesystem);

int unregister_filesystem(struct file_system_type *fs)
{
	struct file_system_type **p = find_filesystem(fs->name);

	if (!*p)
		return -EINVAL;
	*p = fs->next;
	return 0;
}
EXPORT_SYMBOL(unregister_filesystem);
