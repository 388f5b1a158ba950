// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/string.h>
#include <linux/export.h>

void *memcpy(void *to, const void *from, size_t count)
{
	void *start = to;

	asm volatile("rep movsb" : "+D" (to), "+S" (from), "+c" (count) : : "memory");
	return start;
}
EXPORT_SYMBOL(memcpy);

void *memset(void *s, int c, size_t count)
{
	void *start = s;

	asm volatile("rep stosb" : "+D" (s), "+c" (count) : "a" (c) : "memory");
	return start;
}
EXPORT_SYMBOL(memset);

size_t strlen(const char *s)
{
	const char *end = s;

	while (*end)
		asm volatile("inc %0" : "+r" (end));
	return end - s;
}
EXPORT_SYMBOL(strlen);

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a - (unsigned char)*b;
}
EXPORT_SYMBOL(strcmp);

char *strstr(const char *text, const char *word)
{
	size_t i;

	for (; *text; text++) {
		for (i = 0; word[i] && text[i] == word[i]; i++)
			;
		if (!word[i])
			return (char *)text;
	}
	return NULL;
}
EXPORT_SYMBOL(strstr);

/* A string written through sysfs may end in a newline. */
bool sysfs_streq(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	if (*a == '\n' && !a[1])
		a++;
	if (*b == '\n' && !b[1])
		b++;
	return !*a && !*b;
}
EXPORT_SYMBOL(sysfs_streq);
