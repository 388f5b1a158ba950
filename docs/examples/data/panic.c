// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/livepatch.h>
#include <linux/panic.h>

static int before;

void set(struct klp_object *object)
{
	before = panic_timeout;
	panic_timeout = 7;
}

void restore(struct klp_object *object)
{
	panic_timeout = before;
}
