"""The graph of references between objects: who defines, exports, needs and patches what."""
