"""klpbuild: build, verify and boot Linux livepatch modules.

The library imports without SCons.  Rooms import only from the floors below
them; docs/architecture.md has the plan.
"""

__version__ = "0.1.0"
