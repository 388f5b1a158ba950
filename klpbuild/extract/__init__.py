"""Extract from two versions of an object what a patch changes, into an object of its own."""
