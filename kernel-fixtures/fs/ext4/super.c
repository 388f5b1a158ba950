// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include "ext4.h"

/* Two files of this module have one of each. */
static unsigned int ext4_debug_level = 1;
static noinline const char *ext4_state_name(unsigned int state)
{
	return state ? "mounted" : "unmounted";
}

static struct ext4_sb_info ext4_root_sbi;
static journal_t ext4_root_journal;

static void ext4_kill_sb(struct super_block *sb)
{
	static unsigned int counter;

	pr_info("ext4: %s %u %u\n", ext4_state_name(sb->s_flags != 0), ++counter,
		READ_ONCE(ext4_debug_level));
}

static int ext4_init_fs_context(void *fc)
{
	return fc ? 0 : -EINVAL;
}

static struct file_system_type ext4_fs_type = {
	.name = "ext4",
	.init_fs_context = ext4_init_fs_context,
	.kill_sb = ext4_kill_sb,
	.owner = THIS_MODULE,
};

static int __init ext4_init_fs(void)
{
	int err = ext4_init_sysfs();

	if (err)
		return err;
	ext4_root_sbi.s_journal = &ext4_root_journal;
	err = ext4_register_sysfs(&ext4_root_sbi);
	return err ? err : register_filesystem(&ext4_fs_type);
}

static void __exit ext4_exit_fs(void)
{
	unregister_filesystem(&ext4_fs_type);
	ext4_exit_sysfs();
}

module_init(ext4_init_fs);
module_exit(ext4_exit_fs);
MODULE_LICENSE("GPL");
MODULE_ALIAS("fs-ext4");
