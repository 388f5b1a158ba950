// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Each line of /proc/version shows what one table about code does: jump labels, static calls,
 * exceptions, paravirtual calls, alternatives, warnings, unwinding.  The parameter `say` changes
 * them: "+" and "-" turn keys and calls, "w" warns.
 */
#include <linux/atomic.h>
#include <linux/bug.h>
#include <linux/irqflags.h>
#include <linux/jump_label.h>
#include <linux/livepatch.h>
#include <linux/moduleparam.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/stacktrace.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>

extern struct static_key_false sched_schedstats;

/* In the hole below VMALLOC_START: an address of the user would be no fault to be handled. */
#define NOWHERE ((const int *)0xffffc8fffffff000UL)

static DEFINE_STATIC_KEY_FALSE(key_false);
static DEFINE_STATIC_KEY_TRUE(key_true);
static atomic_t reads = ATOMIC_INIT(0);
static bool warn;

static noinline int first(int x) { return x + 1; }
static noinline int second(int x) { return x + 2; }
DEFINE_STATIC_CALL(chosen, first);
static int (*volatile pointed)(int) = first;

static int say_set(const char *text, const struct kernel_param *parameter)
{
	bool on = text[0] == '+';

	if (on) {
		static_branch_enable(&key_false);
		static_branch_disable(&key_true);
		static_call_update(chosen, second);
		pointed = second;
	} else {
		static_branch_disable(&key_false);
		static_branch_enable(&key_true);
		static_call_update(chosen, first);
		pointed = first;
	}
	warn = text[0] == 'w';
	return 0;
}

static const struct kernel_param_ops say_operations = { .set = say_set };
module_param_cb(say, &say_operations, NULL, 0200);

static noinline long from_user(const int __user *place)
{
	int value = 0;

	if (!user_access_begin(place, sizeof(*place)))
		return -EINVAL;
	unsafe_get_user(value, place, failed);
	user_access_end();
	return value;
failed:
	user_access_end();
	return -EFAULT;
}

static noinline long from_kernel(const int *place)
{
	int value = 0;

	__get_kernel_nofault(&value, place, int, failed);
	return value;
failed:
	return -ERANGE;
}

/* What the unwinder sees: functions that the module's own unwind tables lead to. */
static noinline void show_callers(struct seq_file *m)
{
	unsigned long places[6];
	unsigned int count = stack_trace_save(places, ARRAY_SIZE(places), 0), i;

	for (i = 0; i < count; i++)
		seq_printf(m, "%ps ", (void *)places[i]);
	seq_puts(m, "\n");
}

static noinline int masked(struct seq_file *m)
{
	unsigned long flags;
	int disabled;

	local_irq_save(flags);
	disabled = irqs_disabled();
	show_callers(m);
	local_irq_restore(flags);
	return disabled + 2 * irqs_disabled();
}

int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	int value = 7;

	seq_printf(m, "keys %d %d", static_branch_unlikely(&key_false) ? 1 : 0,
		   static_branch_likely(&key_true) ? 1 : 0);
	seq_printf(m, " %d %d\n", static_branch_unlikely(&sched_schedstats) ? 1 : 0,
		   static_branch_likely(&key_false) ? 1 : 0);
	seq_printf(m, "calls %d %d\n", static_call(chosen)(10), pointed(20));
	seq_printf(m, "faults %ld %ld %ld\n", from_user((const int __user *)16), from_kernel(NOWHERE),
		   from_kernel(&value));
	seq_printf(m, "masked %d\n", masked(m));
	seq_printf(m, "features %d %d\n", static_cpu_has(X86_FEATURE_XMM) ? 1 : 0,
		   static_cpu_has(X86_FEATURE_K8) ? 1 : 0);
	atomic_inc(&reads);
	cond_resched();
	if (WARN(warn, "the exercise warns\n"))
		seq_puts(m, "warns\n");
	show_callers(m);
	seq_printf(m, "end %d\n", atomic_read(&reads) > 0);
	return 0;
}

static int state;

void patched(struct klp_object *object)
{
	state = 1;
}

void unpatched(struct klp_object *object)
{
	state = 0;
}
