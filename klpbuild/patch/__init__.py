"""Read source patches, and compile each object that they touch as it was and as they make it."""
