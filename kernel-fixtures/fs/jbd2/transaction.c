// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/jbd2.h>
#include <linux/module.h>

/* Global, yet not exported: only a livepatch of jbd2 or ext4 can want it. */
void jbd2_journal_lock_updates(journal_t *journal);
void jbd2_journal_lock_updates(journal_t *journal)
{
	journal->j_flags |= 1;
}

int jbd2_journal_flush(journal_t *journal, unsigned int flags)
{
	if (flags & ~3u)
		return -EINVAL;
	jbd2_journal_lock_updates(journal);
	journal->j_tail_sequence++;
	return 0;
}
EXPORT_SYMBOL_GPL(jbd2_journal_flush);
