"""Turn unresolved references of a linked module into livepatch relocations."""
