"""Decide the fate of each undefined reference, in one place."""
