// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include <linux/slab.h>
#include <net/9p/client.h>

static unsigned int p9_debug_level;
module_param_named(debug, p9_debug_level, uint, 0);

static noinline unsigned int parse_opts(const char *options)
{
	unsigned int msize = 8192;

	if (options && kstrtouint(options + sizeof("msize=") - 1, 0, &msize))
		pr_info("9pnet: bad options %s\n", options);
	return msize;
}

struct p9_client *p9_client_create(const char *dev_name, char *options)
{
	struct p9_client *clnt = kmalloc(sizeof(*clnt), GFP_KERNEL);

	if (clnt) {
		clnt->msize = parse_opts(options);
		clnt->status = 1;
	}
	return clnt;
}
EXPORT_SYMBOL(p9_client_create);

void p9_client_destroy(struct p9_client *clnt)
{
	if (p9_debug_level)
		pr_info("9pnet: client gone\n");
	kfree(clnt);
}
EXPORT_SYMBOL(p9_client_destroy);

MODULE_LICENSE("GPL");
