// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/spinlock.h>
#include "sysfs.h"

static ssize_t btrfs_feature_attr_show(struct kobject *kobj, struct kobj_attribute *a, char *buf);
static ssize_t btrfs_feature_attr_store(struct kobject *kobj, struct kobj_attribute *a,
					const char *buf, size_t count);

#define BTRFS_FEAT_ATTR(_name, _set, _bit) \
	static struct btrfs_feature_attr btrfs_attr_features_##_name = { \
		.kobj_attr = { .attr = { .name = #_name, .mode = 0644 }, \
			       .show = btrfs_feature_attr_show, .store = btrfs_feature_attr_store }, \
		.feature_set = _set, .feature_bit = BIT(_bit) }

BTRFS_FEAT_ATTR(mixed_backref, FEAT_INCOMPAT, 0);
BTRFS_FEAT_ATTR(default_subvol, FEAT_INCOMPAT, 1);
BTRFS_FEAT_ATTR(free_space_tree, FEAT_COMPAT_RO, 0);

static struct attribute *btrfs_supported_feature_attrs[] = {
	&btrfs_attr_features_mixed_backref.kobj_attr.attr,
	&btrfs_attr_features_default_subvol.kobj_attr.attr,
	&btrfs_attr_features_free_space_tree.kobj_attr.attr,
	NULL,
};

static const struct attribute_group btrfs_feature_attr_group = {
	.name = "features",
	.attrs = btrfs_supported_feature_attrs,
};
static const struct attribute_group *btrfs_groups[] = { &btrfs_feature_attr_group, NULL };

static ssize_t btrfs_attr_show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct kobj_attribute *a = container_of(attr, struct kobj_attribute, attr);

	return a->show ? a->show(kobj, a, buf) : -EIO;
}

static const struct sysfs_ops btrfs_sysfs_ops = { .show = btrfs_attr_show };

static struct kobj_type btrfs_ktype = {
	.sysfs_ops = &btrfs_sysfs_ops,
	.default_groups = btrfs_groups,
};

static u64 safe_set[FEAT_MAX] = { 0, 1, 0 };
static DEFINE_SPINLOCK(feature_lock);

static noinline int check_feature(u64 flags)
{
	return flags & ~READ_ONCE(safe_set[FEAT_COMPAT_RO]) ? -EINVAL : 0;
}

static struct btrfs_fs_info *to_fs_info(struct kobject *kobj)
{
	if (kobj->ktype != &btrfs_ktype)
		return NULL;
	return container_of(kobj, struct btrfs_fs_info, fs_kobj);
}

/*
 * Only one field of the attribute is read, and GCC passes that one instead:
 * the symbol is can_modify_feature.isra.0.
 */
static noinline int can_modify_feature(struct btrfs_feature_attr *fa)
{
	enum btrfs_feature_set which = fa->feature_set;
	int val = 0;
	u64 set;

	spin_lock(&feature_lock);
	set = btrfs_supported_features(which);
	if (set & safe_set[FEAT_COMPAT_RO])
		val |= 1;
	if (set & ~safe_set[FEAT_COMPAT_RO])
		val |= 2;
	spin_unlock(&feature_lock);
	return val;
}

static ssize_t btrfs_feature_attr_show(struct kobject *kobj, struct kobj_attribute *a, char *buf)
{
	struct btrfs_feature_attr *fa = container_of(a, struct btrfs_feature_attr, kobj_attr);
	struct btrfs_fs_info *info = to_fs_info(kobj);
	int val;

	if (info)
		val = !!(info->features[fa->feature_set] & fa->feature_bit);
	else
		val = can_modify_feature(fa);
	return snprintf(buf, PAGE_SIZE, "%d\n", val);
}

static ssize_t btrfs_feature_attr_store(struct kobject *kobj, struct kobj_attribute *a,
					const char *buf, size_t count)
{
	struct btrfs_feature_attr *fa = container_of(a, struct btrfs_feature_attr, kobj_attr);
	struct btrfs_fs_info *info = to_fs_info(kobj);
	unsigned int val;
	int ret;

	if (!info)
		return -EPERM;
	ret = kstrtouint(buf, 0, &val);
	if (ret)
		return ret;
	if (!can_modify_feature(fa)) {
		pr_info("btrfs: %s cannot be changed\n", info->label);
		return -EPERM;
	}
	ret = check_feature(fa->feature_bit);
	return ret ? ret : count;
}

int __init btrfs_init_sysfs(void)
{
	return sysfs_create_group(kernel_kobj, &btrfs_feature_attr_group);
}

void btrfs_exit_sysfs(void)
{
	sysfs_remove_group(kernel_kobj, &btrfs_feature_attr_group);
}
