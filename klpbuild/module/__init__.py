"""Describe a livepatch module, generate its tables, link it by kbuild."""
