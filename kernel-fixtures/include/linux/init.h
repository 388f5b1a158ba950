/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_INIT_H
#define _LINUX_INIT_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <linux/stringify.h>

#define __init		__section(".init.text") __cold
#define __initdata	__section(".init.data")
#define __initconst	__section(".init.rodata")
#define __exit		__section(".exit.text") __used __cold

typedef int (*initcall_t)(void);
typedef void (*exitcall_t)(void);

extern char *saved_command_line;
extern char boot_command_line[];

struct obs_kernel_param {
	const char *str;
	int (*setup_func)(char *);
	int early;
};

#ifndef MODULE
#define __define_initcall(fn, level) \
	static initcall_t __PASTE(__initcall_, fn) __used \
		__section(".initcall" #level ".init") = fn
#define early_initcall(fn)	__define_initcall(fn, 0)
#define core_initcall(fn)	__define_initcall(fn, 1)
#define fs_initcall(fn)		__define_initcall(fn, 5)
#define device_initcall(fn)	__define_initcall(fn, 6)

#define __setup(name, fn) \
	static const char __setup_str_##fn[] __initconst __aligned(1) = name; \
	static struct obs_kernel_param __setup_##fn __used __section(".init.setup") \
		__aligned(8) = { __setup_str_##fn, fn, 0 }
#endif

#endif
