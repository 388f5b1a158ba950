"""Symbols of a kernel: their positions in kallsyms, and who exports them."""
