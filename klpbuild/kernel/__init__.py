"""Fetch, find, configure and prepare a kernel and its parts."""
