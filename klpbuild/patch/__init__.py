"""Read source patches, and compile each object that they touch before and after them."""
