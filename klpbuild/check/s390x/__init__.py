"""How Linux on s390x loads modules."""
