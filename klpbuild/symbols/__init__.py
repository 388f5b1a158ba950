"""Which symbols a kernel has, where kallsyms counts them, who exports them."""
