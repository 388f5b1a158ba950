"""The kernel that these tests compile for."""

from tests.compiler.kernels import fixtures_kernel

__all__ = ["fixtures_kernel"]
