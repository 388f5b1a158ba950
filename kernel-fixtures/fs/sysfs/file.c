// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/sysfs.h>

int sysfs_emit(char *buf, const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = vsnprintf(buf, PAGE_SIZE, fmt, args);
	va_end(args);
	return length;
}
EXPORT_SYMBOL_GPL(sysfs_emit);
