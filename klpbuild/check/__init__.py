"""The second opinion: what the kernel will say of a finished module."""
