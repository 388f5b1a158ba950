"""Check what this machine lacks for building livepatches, and how to get it."""
