// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/jbd2.h>
#include <linux/module.h>

static atomic_t nr_journal_heads;

static void jbd2_debug_show(const char *what)
{
	static unsigned int counter;

	pr_info("jbd2: %s %u\n", what, ++counter);
}

int jbd2_journal_errno(journal_t *journal)
{
	if (unlikely(journal->j_errno))
		jbd2_debug_show("errno");
	return journal->j_errno;
}
EXPORT_SYMBOL(jbd2_journal_errno);

static int __init journal_init(void)
{
	nr_journal_heads.counter = 0;
	return 0;
}

static void __exit journal_exit(void)
{
}

module_init(journal_init);
module_exit(journal_exit);
MODULE_LICENSE("GPL");
