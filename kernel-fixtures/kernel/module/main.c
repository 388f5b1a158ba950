// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>

LIST_HEAD(modules);

/* A name that security/lockdown-like code has, too: see signing.c. */
static bool sig_enforce;

struct module *find_module(const char *name);
struct module *find_module(const char *name)
{
	struct module *mod;

	list_for_each_entry(mod, &modules, list)
		if (!strcmp(mod->name, name))
			return mod;
	return NULL;
}

bool is_module_sig_enforced(void);
bool is_module_sig_enforced(void)
{
	return READ_ONCE(sig_enforce);
}
EXPORT_SYMBOL(is_module_sig_enforced);
