// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include "ext4.h"

static unsigned int ext4_debug_level = 2;
module_param_named(balloc_debug, ext4_debug_level, uint, 0644);

static noinline const char *ext4_state_name(unsigned int state)
{
	return state ? "allocated" : "free";
}

unsigned long long ext4_count_free_clusters(struct ext4_sb_info *sbi)
{
	static unsigned int counter;

	if (ext4_debug_level > 1)
		pr_info("ext4: %s %u\n", ext4_state_name(sbi->s_mb_stats), ++counter);
	return sbi->s_resv_clusters;
}
