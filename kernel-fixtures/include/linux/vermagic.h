/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_VERMAGIC_H
#define _LINUX_VERMAGIC_H

#include <generated/utsrelease.h>

#ifdef CONFIG_SMP
#define VERMAGIC_SMP "SMP "
#else
#define VERMAGIC_SMP ""
#endif
#ifdef CONFIG_PREEMPT
#define VERMAGIC_PREEMPT "preempt "
#else
#define VERMAGIC_PREEMPT ""
#endif
#ifdef CONFIG_MODVERSIONS
#define VERMAGIC_VERSIONS "modversions "
#else
#define VERMAGIC_VERSIONS ""
#endif

#define VERMAGIC_STRING \
	UTS_RELEASE " " VERMAGIC_SMP VERMAGIC_PREEMPT "mod_unload " VERMAGIC_VERSIONS

#endif
