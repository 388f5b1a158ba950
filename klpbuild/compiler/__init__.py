"""Compile as the kernel does: its own flags, its own compiler, its own objtool."""
