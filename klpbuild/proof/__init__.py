"""Prove that an object compiled here is the one that runs, and where each symbol of it is."""
