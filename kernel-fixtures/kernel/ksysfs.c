// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/init.h>
#include <linux/kobject.h>
#include <linux/export.h>

struct kobject *kernel_kobj;
EXPORT_SYMBOL_GPL(kernel_kobj);

static struct kobject kernel_object;

static ssize_t version_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s", linux_banner);
}

static struct kobj_attribute version_attr = {
	.attr = { .name = "version", .mode = 0444 },
	.show = version_show,
};

static struct attribute *kernel_attrs[] = { &version_attr.attr, NULL };
static const struct attribute_group kernel_attr_group = { .attrs = kernel_attrs };

static int __init ksysfs_init(void)
{
	kernel_kobj = &kernel_object;
	return sysfs_create_group(kernel_kobj, &kernel_attr_group);
}
core_initcall(ksysfs_init);
