"""The livepatches of the running kernel: load, unload, and show what holds them up."""
