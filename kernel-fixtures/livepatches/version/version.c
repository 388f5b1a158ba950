// SPDX-License-Identifier: GPL-2.0-or-later
/* Of two functions called version_show, the second one, of /proc/version. */
#include <linux/kernel.h>
#include <linux/seq_file.h>

int livepatch_version_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s livepatch\n", linux_banner);
	return 0;
}
