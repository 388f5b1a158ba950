// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A shorter /proc/meminfo with a line of its own.  si_swapinfo, vm_commit_limit and
 * hugetlb_report_meminfo are not exported: each is there once, so klpbuild finds them.
 */
#include <linux/hugetlb.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/seq_file.h>
#include <linux/swap.h>

static void show_kb(struct seq_file *m, const char *name, unsigned long pages)
{
	seq_printf(m, "%-16s%8lu kB\n", name, pages << (PAGE_SHIFT - 10));
}

int livepatch_meminfo_proc_show(struct seq_file *m, void *v)
{
	struct sysinfo i;

	si_meminfo(&i);
	si_swapinfo(&i);
	show_kb(m, "MemTotal:", i.totalram);
	show_kb(m, "MemFree:", i.freeram);
	show_kb(m, "MemAvailable:", si_mem_available());
	show_kb(m, "Buffers:", i.bufferram);
	show_kb(m, "SwapTotal:", i.totalswap);
	show_kb(m, "SwapFree:", i.freeswap);
	show_kb(m, "CommitLimit:", vm_commit_limit());
	hugetlb_report_meminfo(m);
	seq_puts(m, "Livepatch:       meminfo\n");
	return 0;
}
