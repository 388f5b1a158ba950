/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_STDDEF_H
#define _LINUX_STDDEF_H

#define NULL ((void *)0)
enum {
	false = 0,
	true = 1
};
#define offsetof(type, member)	__builtin_offsetof(type, member)

#endif
