/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_EXPORT_H
#define _LINUX_EXPORT_H

#include <linux/stringify.h>

struct kernel_symbol {
	int value_offset;
	int name_offset;
	int namespace_offset;
};

#ifdef MODULE
extern struct module __this_module;
#define THIS_MODULE (&__this_module)
#else
#define THIS_MODULE ((struct module *)0)
#endif

/* One section for each symbol, so that the linker script can sort them by name. */
#define __EXPORT(symbol, kind) \
	extern typeof(symbol) symbol; \
	asm("	.section \"__ksymtab_strings\",\"aMS\",%progbits,1\n" \
	    "__kstrtab_" #symbol ":\n" \
	    "	.asciz \"" #symbol "\"\n" \
	    "__kstrtabns_" #symbol ":\n" \
	    "	.asciz \"\"\n" \
	    "	.previous\n" \
	    "	.section \"___ksymtab" kind "+" #symbol "\", \"a\"\n" \
	    "	.balign 4\n" \
	    "__ksymtab_" #symbol ":\n" \
	    "	.long " #symbol " - .\n" \
	    "	.long __kstrtab_" #symbol " - .\n" \
	    "	.long __kstrtabns_" #symbol " - .\n" \
	    "	.previous\n")

#define EXPORT_SYMBOL(symbol)		__EXPORT(symbol, "")
#define EXPORT_SYMBOL_GPL(symbol)	__EXPORT(symbol, "_gpl")

#endif
