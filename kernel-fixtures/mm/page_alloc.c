// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/mm.h>

static unsigned long totalram_pages = 1 << 18;
static unsigned long nr_free_pages = 1 << 17;

void si_meminfo(struct sysinfo *val)
{
	val->totalram = totalram_pages;
	val->freeram = nr_free_pages;
	val->sharedram = 64;
	val->bufferram = 128;
	val->mem_unit = PAGE_SIZE;
}
EXPORT_SYMBOL(si_meminfo);

long si_mem_available(void)
{
	return nr_free_pages - nr_free_pages / 16;
}
EXPORT_SYMBOL_GPL(si_mem_available);
