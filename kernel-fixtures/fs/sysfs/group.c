// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/sysfs.h>

static unsigned int group_count;

int sysfs_create_group(struct kobject *kobj, const struct attribute_group *group)
{
	if (!group->attrs)
		return -EINVAL;
	group_count++;
	return 0;
}
EXPORT_SYMBOL_GPL(sysfs_create_group);

void sysfs_remove_group(struct kobject *kobj, const struct attribute_group *group)
{
	group_count--;
}
EXPORT_SYMBOL_GPL(sysfs_remove_group);
