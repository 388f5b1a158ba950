/* SPDX-License-Identifier: GPL-2.0-or-later */
	.section .head.text, "ax"
	.globl startup_64
	.type startup_64, @function
startup_64:
	call start_kernel
1:	hlt
	jmp 1b
	.size startup_64, . - startup_64
