// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A livepatch of the module loop: its parameter hw_queue_depth becomes one more than is asked
 * for, and names the kernel's command line in the log.
 *
 * hw_queue_depth is the module's own, static: it is resolved when the module is loaded.
 * saved_command_line is vmlinux's and resolved with the livepatch.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>

extern int hw_queue_depth;

int livepatch_set_hw_queue_depth(const char *text, const struct kernel_param *param)
{
	int depth, failed = kstrtoint(text, 0, &depth);

	if (failed)
		return failed;
	hw_queue_depth = depth + 1;
	pr_info("livepatch: hw_queue_depth %d, %s\n", hw_queue_depth, saved_command_line);
	return 0;
}
