// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include "sysfs.h"

/* sysfs.c has other ones. */
static u64 safe_set[FEAT_MAX] = { 0, 1, 2 };
static noinline int check_feature(u64 flags)
{
	return flags & ~READ_ONCE(safe_set[FEAT_INCOMPAT]) ? -EINVAL : 0;
}

int btrfs_ioctl_set_features(struct btrfs_fs_info *info, u64 flags);
int btrfs_ioctl_set_features(struct btrfs_fs_info *info, u64 flags)
{
	int err = check_feature(flags);

	if (!err)
		info->features[FEAT_INCOMPAT] = flags;
	return err;
}
