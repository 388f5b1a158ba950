"""Make the nodes of packages: a .deb, a spec file, and what rpmbuild makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from SCons.Action import Action

from klpbuild.errors import KlpError
from klpbuild.package.contents import package_livepatch, source_date
from klpbuild.package.formats import Format
from klpbuild.scons import literal
from klpbuild.scons.actions import failing, guarded
from klpbuild.scons.literal import Environment, Node
from klpbuild.scons.nodes import KernelNodes, LivepatchNodes

#: Suffixes of the documents that go into a package beside the module.
_DOCUMENTS = (".provenance.json", ".cdx.json", ".openvex.json")


def packages(
    nodes: KernelNodes, livepatch: LivepatchNodes, formats: Sequence[Format]
) -> list[Node]:
    """Make the nodes of a livepatch's packages for one kernel, in ``dist/``.

    :param livepatch: one with a module.
    :param formats: the kinds of packages, each `Format` once.
    """
    env, chosen, directory = nodes.env, livepatch.cell.chosen, nodes.directory / "dist"
    assert chosen is not None
    documents = [node for node in livepatch.others if str(node).endswith(_DOCUMENTS)]
    try:
        package = package_livepatch(
            chosen.livepatch,
            nodes.kernel,
            Path(str(livepatch.finished)),
            str(nodes.finish.place.directory),
            source_date(chosen.directory, nodes.epoch),
            tuple(Path(str(node)) for node in documents),
        )
    except KlpError as error:
        return [failing(env, f"dist {nodes.kernel.name} {chosen.module}", error)]
    env = env.Clone(KLP_PACKAGE=package)
    inputs = [livepatch.finished, *documents, env.Value(repr(package)), *nodes.stands_for.values()]
    made = {}
    for kind in formats:
        names = [literal.file(env, directory / name) for name in kind.file_names(package)]
        made[kind] = env.Command(names, inputs, _ACTION, KLP_FORMAT=kind)
        env.NoCache(made[kind])  # they may hold a signature
    if Format.RPM in made:
        env.Depends(made[Format.RPM], made[Format.SPEC])
    return [node for files in made.values() for node in files]


def _make(target: list[Path], source: list[Path], env: Environment) -> None:
    env["KLP_FORMAT"].make(env["KLP_PACKAGE"], target[0].parent)


_ACTION = Action(guarded(_make), literal.announcement("DIST"))
