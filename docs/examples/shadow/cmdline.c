// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/init.h>
#include <linux/livepatch.h>
#include <linux/seq_file.h>

#define READINGS 1 /* ours: any number, together with the object */

int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	int *readings = klp_shadow_get_or_alloc(saved_command_line, READINGS, sizeof(*readings),
						GFP_KERNEL, NULL, NULL);

	seq_printf(m, "%s\n", saved_command_line);
	if (readings)
		seq_printf(m, "readings: %d\n", ++*readings);
	return 0;
}

void after(struct klp_object *object)
{
	klp_shadow_free_all(READINGS, NULL);
}
