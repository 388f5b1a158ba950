// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/init.h>
#include <linux/seq_file.h>

static unsigned long direct_pages_count[4] = { 128, 1024, 2 };

/* Overrides the weak one of fs/proc/meminfo.c. */
void arch_report_meminfo(struct seq_file *m);
void arch_report_meminfo(struct seq_file *m)
{
	seq_printf(m, "DirectMap4k:    %8lu kB\n", direct_pages_count[0] << 2);
	seq_printf(m, "DirectMap2M:    %8lu kB\n", direct_pages_count[1] << 11);
}
