// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/moduleparam.h>

extern long lid_init_state; /* static in the module; klpbuild finds it there */

int livepatch_param_get_lid_init_state(char *buffer, const struct kernel_param *parameter)
{
	return sprintf(buffer, "number %ld\n", lid_init_state);
}
