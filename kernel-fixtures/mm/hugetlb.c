// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/hugetlb.h>
#include <linux/seq_file.h>

static struct hstate {
	unsigned long nr_huge_pages;
	unsigned long free_huge_pages;
} hstates[2];

void hugetlb_report_meminfo(struct seq_file *m)
{
	seq_printf(m, "HugePages_Total:   %5lu\n", hstates[0].nr_huge_pages);
	seq_printf(m, "HugePages_Free:    %5lu\n", hstates[0].free_huge_pages);
}
