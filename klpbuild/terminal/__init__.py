"""Tell people: how far a job is, and the manual page."""
