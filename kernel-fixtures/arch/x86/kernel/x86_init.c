// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/export.h>
#include <asm/x86_init.h>

static void native_reboot(void)
{
	pr_info("reboot\n");
}

/* Function pointers in .data. */
struct x86_platform_ops x86_platform = {
	.calibrate_tsc = native_calibrate_tsc,
	.reboot = native_reboot,
};
EXPORT_SYMBOL_GPL(x86_platform);
