// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/module.h>

static char log_buf[4096];
static size_t log_end;
static bool ignore_loglevel;
module_param(ignore_loglevel, bool, 0644);

__printf(1, 2) int _printk(const char *fmt, ...)
{
	static unsigned int counter;
	va_list args;
	int length;

	if (log_end > sizeof(log_buf) - 256)
		log_end = 0;
	va_start(args, fmt);
	length = vsnprintf(log_buf + log_end, sizeof(log_buf) - log_end, fmt, args);
	va_end(args);
	log_end += length;
	counter++;
	return ignore_loglevel ? (int)counter : length;
}
EXPORT_SYMBOL(_printk);
