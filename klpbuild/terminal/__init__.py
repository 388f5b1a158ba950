"""Print for people: progress, errors in colour, the manual page."""
