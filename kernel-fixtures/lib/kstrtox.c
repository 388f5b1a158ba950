// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/kernel.h>

int kstrtobool(const char *s, bool *res)
{
	if (*s != '0' && *s != '1' && *s != 'y' && *s != 'n')
		return -EINVAL;
	*res = *s == '1' || *s == 'y';
	return 0;
}
EXPORT_SYMBOL(kstrtobool);

int kstrtouint(const char *s, unsigned int base, unsigned int *res)
{
	unsigned int value = 0;

	if (*s < '0' || *s > '9')
		return -EINVAL;
	for (; *s >= '0' && *s <= '9'; s++)
		value = value * (base ? base : 10) + *s - '0';
	*res = value;
	return 0;
}
EXPORT_SYMBOL(kstrtouint);
