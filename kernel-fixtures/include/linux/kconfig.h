/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_KCONFIG_H
#define _LINUX_KCONFIG_H

#include <generated/autoconf.h>

/* 1 if the option is y or m, else 0: the macro of a set option is 1, and pastes to `0,`. */
#define __IS_SET_1 0,
#define __second(first, second, ...) second
#define __set(comma_or_junk) __second(comma_or_junk 1, 0, 0)
#define __is_set(value) __set(__IS_SET_##value)
#define __is_defined(option) __is_set(option)

#define IS_BUILTIN(option) __is_defined(option)
#define IS_MODULE(option) __is_defined(option##_MODULE)
#define IS_ENABLED(option) (IS_BUILTIN(option) || IS_MODULE(option))

#endif
