// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/seq_file.h>
#include <linux/string.h>

void seq_printf(struct seq_file *m, const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = vsnprintf(m->buf + m->count, m->size - m->count, fmt, args);
	va_end(args);
	m->count = min(m->count + length, m->size);
}
EXPORT_SYMBOL(seq_printf);

void seq_putc(struct seq_file *m, char c)
{
	if (m->count < m->size)
		m->buf[m->count++] = c;
}
EXPORT_SYMBOL(seq_putc);

void seq_puts(struct seq_file *m, const char *s)
{
	while (*s)
		seq_putc(m, *s++);
}
EXPORT_SYMBOL(seq_puts);

/* Not exported. */
void seq_put_decimal_ull_width(struct seq_file *m, const char *delimiter,
			       unsigned long long num, unsigned int width)
{
	char digits[32];
	unsigned int length = snprintf(digits, sizeof(digits), "%lu", (unsigned long)num);

	seq_puts(m, delimiter);
	for (; length < width; length++)
		seq_putc(m, ' ');
	seq_puts(m, digits);
}
