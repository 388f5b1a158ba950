"""Read what the user asks for: kernels, livepatches, variables."""
