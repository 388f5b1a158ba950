"""How Linux on ppc64le loads modules."""
