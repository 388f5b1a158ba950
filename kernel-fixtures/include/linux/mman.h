/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_MMAN_H
#define _LINUX_MMAN_H

#include <linux/mm.h>

unsigned long vm_commit_limit(void);
unsigned long vm_memory_committed(void);

#endif
