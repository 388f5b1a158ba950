/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_CAPABILITY_H
#define _LINUX_CAPABILITY_H

#include <linux/types.h>

#define CAP_SYS_ADMIN		21
#define CAP_SYS_RESOURCE	24

bool capable(int cap);

#endif
