// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include <linux/string.h>

enum {
	ACPI_BUTTON_LID_INIT_IGNORE,
	ACPI_BUTTON_LID_INIT_OPEN,
	ACPI_BUTTON_LID_INIT_METHOD,
	ACPI_BUTTON_LID_INIT_DISABLED,
};

static const char * const lid_init_state_str[] = {
	[ACPI_BUTTON_LID_INIT_IGNORE] = "ignore",
	[ACPI_BUTTON_LID_INIT_OPEN] = "open",
	[ACPI_BUTTON_LID_INIT_METHOD] = "method",
	[ACPI_BUTTON_LID_INIT_DISABLED] = "disabled",
};

static long lid_init_state = -1;

static int param_set_lid_init_state(const char *val, const struct kernel_param *kp)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(lid_init_state_str); i++)
		if (sysfs_streq(val, lid_init_state_str[i])) {
			lid_init_state = i;
			return 0;
		}
	return -EINVAL;
}

static int param_get_lid_init_state(char *buf, const struct kernel_param *kp)
{
	int i, c = 0;

	for (i = 0; i < ARRAY_SIZE(lid_init_state_str); i++)
		c += sprintf(buf + c, i == lid_init_state ? "[%s] " : "%s ", lid_init_state_str[i]);
	buf[c - 1] = '\n';
	return c;
}

module_param_call(lid_init_state, param_set_lid_init_state, param_get_lid_init_state, NULL, 0644);
MODULE_PARM_DESC(lid_init_state, "what the lid's first state is taken from");

static int __init acpi_button_driver_init(void)
{
	lid_init_state = ACPI_BUTTON_LID_INIT_OPEN;
	return 0;
}

static void __exit acpi_button_driver_exit(void)
{
}

module_init(acpi_button_driver_init);
module_exit(acpi_button_driver_exit);
MODULE_LICENSE("GPL");
