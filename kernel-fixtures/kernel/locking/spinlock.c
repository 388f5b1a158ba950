// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/spinlock.h>

void _raw_spin_lock(spinlock_t *lock)
{
	while (__atomic_exchange_n(&lock->locked, 1, __ATOMIC_ACQUIRE))
		asm volatile("pause");
}
EXPORT_SYMBOL(_raw_spin_lock);

void _raw_spin_unlock(spinlock_t *lock)
{
	__atomic_store_n(&lock->locked, 0, __ATOMIC_RELEASE);
}
EXPORT_SYMBOL(_raw_spin_unlock);
