// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include "v9fs.h"

static DEFINE_SPINLOCK(v9fs_sessionlist_lock);
static LIST_HEAD(v9fs_sessionlist);

int v9fs_register(void);

struct v9fs_session_info *v9fs_session_init(char *cachetag)
{
	struct v9fs_session_info *v9ses = kmalloc(sizeof(*v9ses), GFP_KERNEL);

	if (!v9ses)
		return NULL;
	v9ses->clnt = p9_client_create("9pnet", "msize=8192");
	v9ses->cachetag = cachetag;
	v9ses->flags = 0;
	spin_lock(&v9fs_sessionlist_lock);
	list_add_tail(&v9ses->slist, &v9fs_sessionlist);
	spin_unlock(&v9fs_sessionlist_lock);
	return v9ses;
}

static ssize_t caches_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct v9fs_session_info *session;
	size_t used = 0;

	spin_lock(&v9fs_sessionlist_lock);
	list_for_each_entry(session, &v9fs_sessionlist, slist)
		if (session->cachetag)
			used += scnprintf(buf + used, PAGE_SIZE - used, "%s\n", session->cachetag);
	spin_unlock(&v9fs_sessionlist_lock);
	return used;
}

static struct kobj_attribute v9fs_attr_cache = {
	.attr = { .name = "caches", .mode = 0444 },
	.show = caches_show,
};

static struct attribute *v9fs_attrs[] = { &v9fs_attr_cache.attr, NULL };
static const struct attribute_group v9fs_attr_group = { .attrs = v9fs_attrs };

static int __init init_v9fs(void)
{
	int err = sysfs_create_group(kernel_kobj, &v9fs_attr_group);

	return err ? err : v9fs_register();
}

static void __exit exit_v9fs(void)
{
	sysfs_remove_group(kernel_kobj, &v9fs_attr_group);
}

module_init(init_v9fs);
module_exit(exit_v9fs);
MODULE_LICENSE("GPL");
