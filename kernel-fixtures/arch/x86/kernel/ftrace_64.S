/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every function calls first, until ftrace makes a NOP of the call. */
	.text
	.globl __fentry__
	.type __fentry__, @function
__fentry__:
	ret
	.size __fentry__, . - __fentry__

	.section "__ksymtab_strings", "aMS", %progbits, 1
__kstrtab___fentry__:
	.asciz "__fentry__"
__kstrtabns___fentry__:
	.asciz ""
	.section "___ksymtab+__fentry__", "a"
	.balign 4
__ksymtab___fentry__:
	.long __fentry__ - .
	.long __kstrtab___fentry__ - .
	.long __kstrtabns___fentry__ - .
