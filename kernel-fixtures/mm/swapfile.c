// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/mm.h>
#include <linux/spinlock.h>
#include <linux/swap.h>

static DEFINE_SPINLOCK(swap_lock);
static long nr_swap_pages = 4096;
long total_swap_pages = 8192;

void si_swapinfo(struct sysinfo *val)
{
	spin_lock(&swap_lock);
	val->freeswap = nr_swap_pages;
	val->totalswap = total_swap_pages;
	spin_unlock(&swap_lock);
}
