// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/capability.h>
#include <linux/kernel.h>

static unsigned long cap_effective = ~0UL;

/* Newer kernels export it; here it is one that livepatches must be resolved for. */
bool capable(int cap)
{
	return cap_effective & BIT(cap);
}
