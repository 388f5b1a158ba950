/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_STRING_H
#define _LINUX_STRING_H

#include <linux/types.h>

void *memcpy(void *to, const void *from, size_t count);
void *memset(void *s, int c, size_t count);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
char *strstr(const char *text, const char *word);
bool sysfs_streq(const char *a, const char *b);

#endif
