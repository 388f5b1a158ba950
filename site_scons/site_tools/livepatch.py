"""Find the SCons tool ``livepatch`` in the package klpbuild."""

from klpbuild.scons import exists, generate

__all__ = ["exists", "generate"]
