/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _EXT4_H
#define _EXT4_H

#include <linux/fs.h>
#include <linux/jbd2.h>
#include <linux/kobject.h>
#include <linux/spinlock.h>

struct ext4_sb_info {
	struct kobject s_kobj;
	journal_t *s_journal;
	spinlock_t s_lock;
	unsigned int s_mb_stats;
	unsigned int s_inode_readahead_blks;
	unsigned long long s_resv_clusters;
};

unsigned long long ext4_count_free_clusters(struct ext4_sb_info *sbi);
int ext4_register_sysfs(struct ext4_sb_info *sbi);
int ext4_init_sysfs(void);
void ext4_exit_sysfs(void);

#endif
