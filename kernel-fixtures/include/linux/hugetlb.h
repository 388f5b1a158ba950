/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_HUGETLB_H
#define _LINUX_HUGETLB_H

#include <linux/mm.h>

struct seq_file;
void hugetlb_report_meminfo(struct seq_file *m);

#endif
