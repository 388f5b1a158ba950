"""The SCons tool ``livepatch``: nodes of the steps by which klpbuild builds livepatches.

Where klpbuild and SCons are installed in one place, as pip does it, this is a whole SConstruct::

    env = Environment(tools=["livepatch"])
    env.Livepatches()

Where they are in different places SCons does not find the tool by name; then::

    from klpbuild.scons import livepatch
    env = Environment(tools=[livepatch])
    env.Livepatches()

Methods:

``Livepatches()``
    makes the nodes of all livepatches and kernels that are asked for, and the targets
    ``livepatch`` (a default target), ``symbols``, ``boot``, ``check``, ``install``,
    ``uninstall``, ``dist`` and ``compile_commands``.
``LivepatchHelp()``
    is a text that explains options and targets, for ``Help()``.
``LivepatchCheckArguments()``
    ends with a message when the command line has a word that klpbuild does not know.

Construction variables:

``livepatch``, ``livepatches``, ``kernel``, ``V`` and the other options of the help
    are read from the command line; what it does not say is as the environment has it.
``KLP_BUILD``
    directory of all outputs and of SCons' database, ``build`` if not set.
"""

from __future__ import annotations

from typing import Any

from klpbuild.scons import arguments, targets


def generate(env: Any, **_: Any) -> None:
    """Add the methods that make the nodes of all livepatches."""
    env.SetDefault(KLP_BUILD="build")
    env.AddMethod(arguments.help_text, "LivepatchHelp")
    env.AddMethod(arguments.check_arguments, "LivepatchCheckArguments")
    env.AddMethod(targets.livepatches, "Livepatches")


def exists(env: Any) -> bool:
    """Tell whether the tool can be used: klpbuild is beside it or installed."""
    return True


#: The tool by its name: SCons takes a function, too.
livepatch = generate
