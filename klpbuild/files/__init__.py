"""Files: written whole, kept as records, locked, and those that users name."""
