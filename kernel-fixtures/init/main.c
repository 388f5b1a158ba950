// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/export.h>
#include <linux/init.h>

char boot_command_line[256] __initdata = "BOOT_IMAGE=/vmlinuz root=/dev/vda1";
static char command_line[256];
/* Not exported: /proc/cmdline shows it. */
char *saved_command_line __ro_after_init;

bool initcall_debug;
unsigned long loops_per_jiffy = 1 << 12;
EXPORT_SYMBOL(loops_per_jiffy);

extern initcall_t __initcall_start[], __initcall_end[];

asmlinkage void start_kernel(void);

static int __init debug_kernel(char *str)
{
	initcall_debug = true;
	return 0;
}
__setup("debug", debug_kernel);

static void __init setup_command_line(void)
{
	unsigned int i;

	for (i = 0; i < sizeof(command_line); i++)
		command_line[i] = boot_command_line[i];
	saved_command_line = command_line;
}

static void __init do_initcalls(void)
{
	initcall_t *fn;

	for (fn = __initcall_start; fn < __initcall_end; fn++)
		(*fn)();
}

asmlinkage void __init start_kernel(void)
{
	pr_notice("%s", linux_banner);
	setup_command_line();
	do_initcalls();
}
