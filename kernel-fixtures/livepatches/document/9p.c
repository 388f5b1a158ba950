// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/spinlock.h>
#include "../../fs/9p/v9fs.h"

extern spinlock_t v9fs_sessionlist_lock;
extern struct list_head v9fs_sessionlist;

__section(".text.caches_show")
ssize_t livepatch_caches_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct v9fs_session_info *session;
	size_t used = 0;

	spin_lock(&v9fs_sessionlist_lock);
	list_for_each_entry(session, &v9fs_sessionlist, slist)
		if (session->cachetag)
			used += scnprintf(buf + used, PAGE_SIZE - used, "livepatch:%s\n",
					  session->cachetag);
	spin_unlock(&v9fs_sessionlist_lock);
	return used;
}
