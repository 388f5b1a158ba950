"""A function, and what it needs, taken out of the kernel's source for a new livepatch."""
