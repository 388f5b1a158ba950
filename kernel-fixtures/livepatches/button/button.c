// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A livepatch of the module button: its parameter lid_init_state also tells whether the
 * kernel's command line sets it.
 *
 * lid_init_state and lid_init_state_str are the module's own, static; they are resolved
 * when it is loaded.  saved_command_line is vmlinux's and resolved with the livepatch.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

extern long lid_init_state;
extern const char * const lid_init_state_str[4];

int livepatch_param_get_lid_init_state(char *buf, const struct kernel_param *kp)
{
	bool set = strstr(saved_command_line, "button.lid_init_state=");
	int length = 0, i;

	for (i = 0; i < ARRAY_SIZE(lid_init_state_str); i++)
		length += sprintf(buf + length, i == lid_init_state ? "[%s] " : "%s ",
				  lid_init_state_str[i]);
	length += sprintf(buf + length, "livepatch: %s\n", set ? "command line" : "default");
	return length;
}
