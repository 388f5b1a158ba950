"""Make the targets of a release: modules checked, installed, uninstalled."""

from __future__ import annotations

from pathlib import Path

from SCons.Action import Action

from klpbuild.package import install as installation
from klpbuild.scons import literal
from klpbuild.scons.actions import guarded
from klpbuild.scons.literal import Environment, Node
from klpbuild.scons.nodes import KernelNodes


def targets(nodes: KernelNodes, everything: bool) -> dict[str, Node]:
    """Make the targets install, uninstall and check of one kernel.

    :param everything: whether uninstall removes all that was installed, not only the
        livepatches that are asked for.
    :returns: name of the target to its node.
    """
    env, kernel, how = nodes.env, nodes.kernel, nodes.finish
    chosen = [each.cell.chosen for each in nodes.livepatches]
    names = None if everything else [each.module for each in chosen if each is not None]
    manifest = nodes.directory / "installed.json"
    files = [each.finished for each in nodes.livepatches if each.finished is not None]
    signed = [each.signed for each in nodes.livepatches if each.signed is not None]

    def install(target: list[Path], source: list[Path], env: Environment) -> None:
        paths = [Path(str(node)) for node in files]
        for path in installation.install(paths, how.place, manifest, nodes.epoch):
            print(f"  INSTALL {path}")
        installation.run_depmod(how.place)

    def uninstall(target: list[Path], source: list[Path], env: Environment) -> None:
        for path in installation.uninstall(how.place, manifest, names):
            print(f"  REMOVE  {path}")
        installation.run_depmod(how.place)

    def check(target: list[Path], source: list[Path], env: Environment) -> int:
        from klpbuild.package.verdict import check_finished

        paths = [Path(str(node)) for node in signed]
        return check_finished(kernel, paths, Path(str(nodes.symbols)), how.signer)

    made = {
        "install": (files, install, None),
        "uninstall": ([], uninstall, None),
        "check": ([*signed, nodes.symbols], check, literal.announcement("CHECK", kernel.release)),
    }
    return {
        name: env.AlwaysBuild(
            env.Alias(
                literal.alias(env, f"{name} {kernel.name}"), needed, Action(guarded(function), said)
            )
        )[0]
        for name, (needed, function, said) in made.items()
        if needed or name == "uninstall"
    }
