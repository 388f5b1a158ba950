"""Measurements: `python -m tests.benchmarks`.  Nothing here is a test, and no test is timed."""
