"""Load, unload and watch the livepatches of the running kernel."""
