"""Boot a kernel in QEMU and see what a livepatch does to it."""
