"""How Linux on arm64 loads modules."""
