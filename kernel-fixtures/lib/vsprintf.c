// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/string.h>

struct printf_spec {
	unsigned int width;
	bool left;
	bool longs;
};

static char *put(char *buf, char *end, char c)
{
	if (buf < end)
		*buf = c;
	return buf + 1;
}

/* Constant propagation makes number.constprop.0 of it: base is always the same. */
static noinline char *number(char *buf, char *end, unsigned long value, unsigned int base,
			     struct printf_spec spec)
{
	char digits[24];
	unsigned int count = 0, fill;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	for (fill = count; fill < spec.width; fill++)
		buf = put(buf, end, ' ');
	while (count)
		buf = put(buf, end, digits[--count]);
	return buf;
}

static char *string(char *buf, char *end, const char *s, struct printf_spec spec)
{
	unsigned int length = 0;

	for (; s && *s; s++, length++)
		buf = put(buf, end, *s);
	for (; spec.left && length < spec.width; length++)
		buf = put(buf, end, ' ');
	return buf;
}

int vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
{
	char *start = buf, *end = buf + size;

	for (; *fmt; fmt++) {
		struct printf_spec spec = { 0 };

		if (*fmt != '%') {
			buf = put(buf, end, *fmt);
			continue;
		}
		fmt++;
		if (*fmt == '-') {
			spec.left = true;
			fmt++;
		}
		while (*fmt >= '0' && *fmt <= '9')
			spec.width = spec.width * 10 + *fmt++ - '0';
		while (*fmt == 'l') {
			spec.longs = true;
			fmt++;
		}
		if (*fmt == 's')
			buf = string(buf, end, va_arg(args, const char *), spec);
		else if (*fmt == 'c')
			buf = put(buf, end, va_arg(args, int));
		else if (spec.longs)
			buf = number(buf, end, va_arg(args, unsigned long), 10, spec);
		else
			buf = number(buf, end, va_arg(args, unsigned int), 10, spec);
	}
	if (size)
		*(buf < end ? buf : end - 1) = '\0';
	return buf - start;
}
EXPORT_SYMBOL(vsnprintf);

int snprintf(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = vsnprintf(buf, size, fmt, args);
	va_end(args);
	return length;
}
EXPORT_SYMBOL(snprintf);

int scnprintf(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = vsnprintf(buf, size, fmt, args);
	va_end(args);
	return min(length, (int)size - 1);
}
EXPORT_SYMBOL(scnprintf);

int sprintf(char *buf, const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = vsnprintf(buf, 0x7fffffff, fmt, args);
	va_end(args);
	return length;
}
EXPORT_SYMBOL(sprintf);
