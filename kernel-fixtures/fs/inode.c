// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/init.h>
#include <linux/list.h>

struct inode {
	struct list_head i_list;
	unsigned long i_ino;
};

static LIST_HEAD(inode_list);

/* fs/proc/inode.c has another. */
static noinline void init_once(void *foo)
{
	struct inode *inode = foo;

	INIT_LIST_HEAD(&inode->i_list);
	inode->i_ino = 0;
}

void inode_init_once(struct inode *inode);
void inode_init_once(struct inode *inode)
{
	init_once(inode);
	list_add_tail(&inode->i_list, &inode_list);
}
EXPORT_SYMBOL(inode_init_once);

unsigned int get_next_ino(void);
unsigned int get_next_ino(void)
{
	static unsigned int counter;

	return ++counter;
}
EXPORT_SYMBOL(get_next_ino);
