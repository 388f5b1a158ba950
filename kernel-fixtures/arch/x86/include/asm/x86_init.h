/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _ASM_X86_X86_INIT_H
#define _ASM_X86_X86_INIT_H

struct x86_platform_ops {
	unsigned long (*calibrate_tsc)(void);
	void (*reboot)(void);
};

extern struct x86_platform_ops x86_platform;
unsigned long native_calibrate_tsc(void);

#endif
