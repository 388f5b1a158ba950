// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>

/* Not the name of the variable: the parameter is i8042.reset, and so is __param_str_reset. */
static bool i8042_reset = true;
module_param_named(reset, i8042_reset, bool, 0);

static noinline int set_param(bool value)
{
	i8042_reset = value;
	return 0x42;
}

static int __init i8042_init(void)
{
	return set_param(false) - 0x42;
}
device_initcall(i8042_init);
