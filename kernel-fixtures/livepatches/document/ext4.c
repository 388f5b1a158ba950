// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/kobject.h>
#include "../../fs/ext4/ext4.h"

extern ssize_t delayed_allocation_blocks_show(struct ext4_sb_info *sbi, char *buf);
extern ssize_t inode_readahead_blks_store(struct ext4_sb_info *sbi, const char *buf, size_t count);
extern struct ext4_sb_info ext4_root_sbi;

/*
 * jbd2 exports these.  The livepatch must be loadable without jbd2, so they are resolved
 * when ext4 is loaded, which needs jbd2: the gate is ext4, the owner jbd2.
 */
extern int jbd2_journal_errno(journal_t *journal)
	KLP_RELOC_SYMBOL(ext4, jbd2, jbd2_journal_errno);
extern int jbd2_journal_flush(journal_t *journal, unsigned int flags)
	KLP_RELOC_SYMBOL(ext4, jbd2, jbd2_journal_flush);

__section(".text.ext4_attr_store")
ssize_t livepatch_ext4_attr_store(struct kobject *kobj, struct attribute *attr, const char *buf,
				  size_t len)
{
	struct ext4_sb_info *sbi = container_of(kobj, struct ext4_sb_info, s_kobj);

	if (attr->name[0] == 'i')
		return inode_readahead_blks_store(sbi, buf, len);
	return jbd2_journal_flush(ext4_root_sbi.s_journal, 0) ?: len;
}

__section(".text.ext4_attr_show")
ssize_t livepatch_ext4_attr_show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct ext4_sb_info *sbi = container_of(kobj, struct ext4_sb_info, s_kobj);

	if (attr->name[0] == 'd')
		return delayed_allocation_blocks_show(sbi, buf);
	return sysfs_emit(buf, "%d %lu\n", jbd2_journal_errno(ext4_root_sbi.s_journal),
			  (unsigned long)ext4_count_free_clusters(sbi));
}
