// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/fs.h>
#include <linux/module.h>
#include "v9fs.h"

static void v9fs_kill_super(struct super_block *s)
{
	struct v9fs_session_info *v9ses = s->s_fs_info;

	p9_client_destroy(v9ses->clnt);
}

static struct file_system_type v9fs_fs_type = {
	.name = "9p",
	.kill_sb = v9fs_kill_super,
	.owner = THIS_MODULE,
};

static int v9fs_init_fs_context(void *fc)
{
	return v9fs_session_init("default") ? 0 : -ENODEV;
}

int v9fs_register(void);
int v9fs_register(void)
{
	v9fs_fs_type.init_fs_context = v9fs_init_fs_context;
	return register_filesystem(&v9fs_fs_type);
}
