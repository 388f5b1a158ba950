// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/mm.h>
#include "../../fs/btrfs/sysfs.h"

extern struct kobj_type btrfs_ktype;
/* GCC made a clone of it, which takes one field of the attribute and has a name to match. */
extern int can_modify_feature(enum btrfs_feature_set set) __asm__("can_modify_feature.isra.0");

__section(".text.btrfs_feature_attr_show")
ssize_t livepatch_btrfs_feature_attr_show(struct kobject *kobj, struct kobj_attribute *a,
					  char *buf)
{
	struct btrfs_feature_attr *fa = container_of(a, struct btrfs_feature_attr, kobj_attr);
	int value;

	printk("livepatch: %s\n", a->attr.name);
	if (kobj->ktype == &btrfs_ktype)
		value = 1;
	else
		value = can_modify_feature(fa->feature_set);
	return snprintf(buf, PAGE_SIZE, "%d\n", value);
}
