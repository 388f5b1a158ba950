// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The next version of the livepatch meminfo.  It replaces that one in one step, as
 * `replace` is on; afterwards the older module can be unloaded.
 */
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/seq_file.h>
#include <linux/swap.h>

int livepatch_meminfo_proc_show(struct seq_file *m, void *v)
{
	struct sysinfo i;

	si_meminfo(&i);
	si_swapinfo(&i);
	seq_printf(m, "MemTotal:       %8lu kB\n", i.totalram << (PAGE_SHIFT - 10));
	seq_printf(m, "MemFree:        %8lu kB\n", i.freeram << (PAGE_SHIFT - 10));
	seq_printf(m, "SwapTotal:      %8lu kB\n", i.totalswap << (PAGE_SHIFT - 10));
	seq_printf(m, "CommitLimit:    %8lu kB\n", vm_commit_limit() << (PAGE_SHIFT - 10));
	seq_printf(m, "Committed_AS:   %8lu kB\n", vm_memory_committed() << (PAGE_SHIFT - 10));
	seq_puts(m, "Livepatch:       meminfo-2\n");
	return 0;
}
