/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BTRFS_SYSFS_H
#define BTRFS_SYSFS_H

#include <linux/kobject.h>
#include <linux/types.h>

enum btrfs_feature_set {
	FEAT_COMPAT,
	FEAT_COMPAT_RO,
	FEAT_INCOMPAT,
	FEAT_MAX
};

struct btrfs_feature_attr {
	struct kobj_attribute kobj_attr;
	enum btrfs_feature_set feature_set;
	u64 feature_bit;
};

struct btrfs_fs_info {
	struct kobject fs_kobj;
	u64 features[FEAT_MAX];
	const char *label;
};

u64 btrfs_supported_features(enum btrfs_feature_set set);
int btrfs_init_sysfs(void);
void btrfs_exit_sysfs(void);

#endif
