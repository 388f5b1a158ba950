// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/kernel.h>
#include <linux/export.h>
#include <linux/init.h>
#include <asm/x86_init.h>

unsigned int tsc_khz __read_mostly;
EXPORT_SYMBOL(tsc_khz);

/* Called from the tracer itself: it must have no ftrace entry. */
notrace unsigned long long sched_clock(void)
{
	unsigned int low, high;

	asm volatile("rdtsc" : "=a" (low), "=d" (high));
	return (u64)high << 32 | low;
}

unsigned long native_calibrate_tsc(void)
{
	static unsigned int counter;

	return ++counter * 1000;
}

static int __init init_tsc(void)
{
	tsc_khz = x86_platform.calibrate_tsc();
	return 0;
}
core_initcall(init_tsc);
