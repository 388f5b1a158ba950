/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_ACPI_H
#define _LINUX_ACPI_H

#include <linux/types.h>

extern struct proc_dir_entry *acpi_root_dir;

#endif
