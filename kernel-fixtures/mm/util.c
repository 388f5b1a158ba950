// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/mman.h>
#include <linux/swap.h>

static int sysctl_overcommit_ratio = 50;
static long vm_committed_as = 2048;

unsigned long vm_commit_limit(void)
{
	struct sysinfo i;

	si_meminfo(&i);
	si_swapinfo(&i);
	return i.totalram * sysctl_overcommit_ratio / 100 + i.totalswap;
}

unsigned long vm_memory_committed(void)
{
	return vm_committed_as;
}
EXPORT_SYMBOL_GPL(vm_memory_committed);
