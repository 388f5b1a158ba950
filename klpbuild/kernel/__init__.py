"""A kernel and its parts: fetched, found, configured, prepared."""
