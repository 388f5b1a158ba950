// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/bitops.h>

/* Not exported, like capable(): older kernels had it out of line. */
unsigned long find_next_bit(const unsigned long *addr, unsigned long size, unsigned long offset)
{
	for (; offset < size; offset++)
		if (addr[offset / BITS_PER_LONG] & BIT(offset % BITS_PER_LONG))
			return offset;
	return size;
}
