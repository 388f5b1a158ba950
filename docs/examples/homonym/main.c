// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kobject.h>
#include <linux/sysfs.h>

ssize_t livepatch_state_show(struct kobject *object, struct kobj_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "this machine does not sleep\n");
}
