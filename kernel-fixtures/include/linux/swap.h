/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_SWAP_H
#define _LINUX_SWAP_H

#include <linux/mm.h>

void si_swapinfo(struct sysinfo *val);

#endif
