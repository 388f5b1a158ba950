// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/printk.h>
#include <generated/utsrelease.h>

const char linux_banner[] = "Linux version " UTS_RELEASE "\n";
