/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Annotations that say where a symbol is that the kernel does not export.
 *
 * klpbuild includes this file before every source of a livepatch.  What a kernel
 * or a source defines itself is left alone.
 */
#ifndef KLPBUILD_LIVEPATCH_H
#define KLPBUILD_LIVEPATCH_H

#ifndef __ASSEMBLY__

/*
 * struct KLP_MODULE_RELOC(object) name[] = {
 *	KLP_SYMPOS(symbol, position),
 * };
 *
 * The symbol is the one at this position among the object's symbols of its name,
 * counted from 1 in kallsyms order; position 0 says that there is only one.
 * klpbuild chooses the gate (see below) at each place that uses it.
 *
 * An entry has 12 bytes on every target.  GCC aligns arrays of 32 bytes and more
 * to 32 where nothing else is said, which would leave holes between two arrays.
 * The type name makes the macro work after "struct" and without it.
 */
#ifndef KLP_MODULE_RELOC
typedef struct klpbuild_module_reloc {
	union {
		void *sym;
		unsigned long long sym64;
	};
	unsigned int sympos;
} __attribute__((packed)) klpbuild_module_reloc;

#define KLP_MODULE_RELOC(object)                                               \
	klpbuild_module_reloc __attribute__((                                  \
		section(".klp.module_relocs." #object), aligned(4), used))
#endif

#ifndef KLP_SYMPOS
#define KLP_SYMPOS(symbol, position)                                           \
	{ .sym = (void *)&(symbol), .sympos = (position) }
#endif

/*
 * extern int value KLP_RELOC_SYMBOL(gate, owner, value);
 * extern int work(int) KLP_RELOC_SYMBOL(gate, owner, work, position);
 *
 * The owner is the object that defines the symbol, the gate the patched object
 * whose loading makes it reachable; for a symbol of vmlinux both are vmlinux.
 * The gate depends on the owner, and nothing that runs without the gate may lead
 * to the symbol.  All of it goes into the assembler's name of the symbol, in
 * quotation marks because of its dots and comma; clang writes them itself.
 */
#ifndef KLP_RELOC_SYMBOL
#ifdef __clang__
#define KLPBUILD_QUOTE
#else
#define KLPBUILD_QUOTE "\""
#endif
#define KLP_RELOC_SYMBOL(gate, owner, symbol, ...)                             \
	__asm__(KLPBUILD_QUOTE ".klp.sym.rela." #gate "." #owner "." #symbol   \
		"," KLPBUILD_POSITION(0, ##__VA_ARGS__, 0, 0) KLPBUILD_QUOTE)
#define KLPBUILD_POSITION(unused, position, ...) KLPBUILD_TEXT(position)
#define KLPBUILD_TEXT(text) #text
#endif

#ifndef KLP_RELOC_SYMBOL_POS
#define KLP_RELOC_SYMBOL_POS(gate, owner, symbol, position)                    \
	KLP_RELOC_SYMBOL(gate, owner, symbol, position)
#endif

#endif /* __ASSEMBLY__ */
#endif /* KLPBUILD_LIVEPATCH_H */
