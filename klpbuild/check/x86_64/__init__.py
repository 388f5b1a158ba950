"""Model what the module loader of x86-64 reads: relocations, instructions, tables about them."""
