"""Take a function, and what it needs, out of the kernel's source for a new livepatch."""
