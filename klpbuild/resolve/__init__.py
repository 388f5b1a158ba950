"""The one place that decides what becomes of a reference."""
