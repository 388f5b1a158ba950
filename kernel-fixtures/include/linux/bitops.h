/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_BITOPS_H
#define _LINUX_BITOPS_H

#include <linux/kernel.h>
#include <linux/find.h>

#define for_each_set_bit(bit, addr, size) \
	for ((bit) = find_next_bit(addr, size, 0); (bit) < (size); \
	     (bit) = find_next_bit(addr, size, (bit) + 1))

#endif
