// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>

/* The second __param_str_reset. */
static bool atkbd_reset;
module_param_named(reset, atkbd_reset, bool, 0);

static noinline int set_param(bool value)
{
	atkbd_reset = value;
	return 0x60;
}

static int __init atkbd_init(void)
{
	return set_param(true) - 0x60;
}
device_initcall(atkbd_init);
