"""The SCons tool ``livepatch``: nodes of the steps by which klpbuild builds livepatches.

Use it from any SConstruct::

    env = Environment(tools=["livepatch"], toolpath=["klpbuild/site_scons/site_tools"])
    env.Livepatches()

Construction variables:

``livepatch``, ``livepatches``, ``kernel``, ``V``
    as explained by ``scons -h``; `LivepatchHelp` writes that text.
``KLP_BUILD``
    directory of all outputs and of SCons' database, ``build`` if not set.
"""

from __future__ import annotations

from klpbuild.scons import arguments, targets


def generate(env, **_):
    """Add the methods that make the nodes of all livepatches."""
    env.SetDefault(KLP_BUILD="build", V=False, junit="", sarif="")
    env.AddMethod(arguments.help_text, "LivepatchHelp")
    env.AddMethod(arguments.check_arguments, "LivepatchCheckArguments")
    env.AddMethod(targets.livepatches, "Livepatches")


def exists(env):
    """Whether the tool can be used: klpbuild is beside it or installed."""
    return True
