/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FS_9P_V9FS_H
#define FS_9P_V9FS_H

#include <linux/list.h>
#include <net/9p/client.h>

struct v9fs_session_info {
	struct list_head slist;
	struct p9_client *clnt;
	char *cachetag;
	unsigned int flags;
};

struct v9fs_session_info *v9fs_session_init(char *cachetag);

#endif
