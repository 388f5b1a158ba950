// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "module."

static bool sig_enforce;
module_param(sig_enforce, bool, 0644);
