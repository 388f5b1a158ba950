// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/fs.h>
#include <linux/module.h>
#include "sysfs.h"

static const u64 feature_masks[FEAT_MAX] = { 0, 3, 0x7ff };

u64 btrfs_supported_features(enum btrfs_feature_set set)
{
	return feature_masks[set];
}

static void btrfs_kill_super(struct super_block *sb)
{
	static unsigned int counter;

	pr_info("btrfs: unmount %u\n", ++counter);
}

static struct file_system_type btrfs_fs_type = {
	.name = "btrfs",
	.kill_sb = btrfs_kill_super,
	.owner = THIS_MODULE,
};

static int __init init_btrfs_fs(void)
{
	int err = btrfs_init_sysfs();

	return err ? err : register_filesystem(&btrfs_fs_type);
}

static void __exit exit_btrfs_fs(void)
{
	unregister_filesystem(&btrfs_fs_type);
	btrfs_exit_sysfs();
}

module_init(init_btrfs_fs);
module_exit(exit_btrfs_fs);
MODULE_LICENSE("GPL");
MODULE_ALIAS("fs-btrfs");
