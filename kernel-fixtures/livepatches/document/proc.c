// SPDX-License-Identifier: GPL-2.0-or-later
/* The functions of vmlinux.  capable and find_next_bit are not exported in the fixtures. */
#include <linux/bitops.h>
#include <linux/capability.h>
#include <linux/hugetlb.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mman.h>
#include <linux/seq_file.h>
#include <linux/swap.h>

__section(".text.cmdline_proc_show")
int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s livepatch=1\n", saved_command_line);
	return 0;
}

__section(".text.meminfo_proc_show")
int livepatch_meminfo_proc_show(struct seq_file *m, void *v)
{
	struct sysinfo i;
	unsigned long bit;

	si_meminfo(&i);
	si_swapinfo(&i);
	seq_printf(m, "MemTotal:  %8lu\nSwapTotal: %8lu\n", i.totalram, i.totalswap);
	for_each_set_bit(bit, &i.totalswap, BITS_PER_LONG)
		seq_printf(m, "SwapBit:   %8lu\n", bit);
	if (capable(CAP_SYS_ADMIN))
		seq_printf(m, "CommitLimit: %6lu\n", vm_commit_limit());
	hugetlb_report_meminfo(m);
	return 0;
}
