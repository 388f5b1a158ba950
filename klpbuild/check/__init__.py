"""Check a finished module a second time: what the kernel will say of it."""
