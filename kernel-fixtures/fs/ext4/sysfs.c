// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include "ext4.h"

enum attr_id {
	attr_delayed_allocation_blocks,
	attr_session_errors,
	attr_inode_readahead,
	attr_trigger_test_error,
	attr_journal_flush,
};

struct ext4_attr {
	struct attribute attr;
	enum attr_id attr_id;
};

#define EXT4_ATTR(_name, _mode) \
	static struct ext4_attr ext4_attr_##_name = { \
		.attr = { .name = #_name, .mode = _mode }, .attr_id = attr_##_name }

EXT4_ATTR(delayed_allocation_blocks, 0444);
EXT4_ATTR(session_errors, 0444);
EXT4_ATTR(inode_readahead, 0644);
EXT4_ATTR(trigger_test_error, 0200);
EXT4_ATTR(journal_flush, 0200);

static struct attribute *ext4_attrs[] = {
	&ext4_attr_delayed_allocation_blocks.attr,
	&ext4_attr_session_errors.attr,
	&ext4_attr_inode_readahead.attr,
	&ext4_attr_trigger_test_error.attr,
	&ext4_attr_journal_flush.attr,
	NULL,
};

static const struct attribute_group ext4_group = { .attrs = ext4_attrs };
static const struct attribute_group *ext4_groups[] = { &ext4_group, NULL };
static struct kobject *ext4_root;
static struct kobject ext4_root_object;

static noinline ssize_t delayed_allocation_blocks_show(struct ext4_sb_info *sbi, char *buf)
{
	return sysfs_emit(buf, "%lu\n", (unsigned long)ext4_count_free_clusters(sbi));
}

static noinline ssize_t inode_readahead_blks_store(struct ext4_sb_info *sbi, const char *buf,
						   size_t count)
{
	unsigned int value;
	int ret = kstrtouint(buf, 0, &value);

	if (ret)
		return ret;
	if (value & (value - 1))
		return -EINVAL;
	sbi->s_inode_readahead_blks = value;
	return count;
}

static noinline ssize_t trigger_test_error(struct ext4_sb_info *sbi, const char *buf, size_t count)
{
	pr_err("ext4: test error: %s", buf);
	return count;
}

static ssize_t ext4_attr_show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct ext4_sb_info *sbi = container_of(kobj, struct ext4_sb_info, s_kobj);
	struct ext4_attr *a = container_of(attr, struct ext4_attr, attr);

	switch (a->attr_id) {
	case attr_delayed_allocation_blocks:
		return delayed_allocation_blocks_show(sbi, buf);
	case attr_session_errors:
		return sysfs_emit(buf, "%d\n", jbd2_journal_errno(sbi->s_journal));
	case attr_inode_readahead:
		return sysfs_emit(buf, "%u\n", sbi->s_inode_readahead_blks);
	default:
		return 0;
	}
}

static ssize_t ext4_attr_store(struct kobject *kobj, struct attribute *attr, const char *buf,
			       size_t len)
{
	struct ext4_sb_info *sbi = container_of(kobj, struct ext4_sb_info, s_kobj);
	struct ext4_attr *a = container_of(attr, struct ext4_attr, attr);

	switch (a->attr_id) {
	case attr_inode_readahead:
		return inode_readahead_blks_store(sbi, buf, len);
	case attr_trigger_test_error:
		return trigger_test_error(sbi, buf, len);
	case attr_journal_flush:
		return jbd2_journal_flush(sbi->s_journal, 0) ?: len;
	default:
		return 0;
	}
}

static const struct sysfs_ops ext4_attr_ops = {
	.show = ext4_attr_show,
	.store = ext4_attr_store,
};

/* The document of the livepatch ELF format shows a reference to btrfs' one. */
static const struct kobj_type ext4_ktype = {
	.default_groups = ext4_groups,
	.sysfs_ops = &ext4_attr_ops,
};

int ext4_register_sysfs(struct ext4_sb_info *sbi)
{
	return kobject_init_and_add(&sbi->s_kobj, &ext4_ktype, ext4_root, "vda1");
}

int __init ext4_init_sysfs(void)
{
	ext4_root = &ext4_root_object;
	return 0;
}

void ext4_exit_sysfs(void)
{
	kobject_put(ext4_root);
	ext4_root = NULL;
}
