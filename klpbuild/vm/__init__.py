"""Boot a kernel in QEMU and watch what a livepatch does to it."""
