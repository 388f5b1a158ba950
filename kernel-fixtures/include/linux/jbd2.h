/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_JBD2_H
#define _LINUX_JBD2_H

#include <linux/types.h>

typedef struct journal_s {
	unsigned int j_flags;
	unsigned int j_tail_sequence;
	int j_errno;
} journal_t;

int jbd2_journal_errno(journal_t *journal);
int jbd2_journal_flush(journal_t *journal, unsigned int flags);

#endif
