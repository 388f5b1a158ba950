"""Livepatches for machines other than x86-64, on small kernels that are built here."""
