"""Write answers of the graph in plain lines."""

from __future__ import annotations

from collections.abc import Iterable

from klpbuild.graph import queries
from klpbuild.graph.build import Fate, Graph
from klpbuild.terminal.columns import columns


def kernel_text(graph: Graph) -> str:
    """Count the objects, and list who is needed most."""
    names = queries.objects(graph)
    modules = [name for name in names if graph.nodes[name]["kind"] == "module"]
    users = {name: len(queries.users(graph, name)) for name in modules}
    most = sorted(users, key=lambda name: (-users[name], name))[:10]
    circles = [" -> ".join([*circle, circle[0]]) for circle in queries.cycles(graph)]
    rows = [("needed by", "module")] + [(str(users[name]), name) for name in most if users[name]]
    return "\n".join(
        [
            f"{len(modules):,} modules, {graph.number_of_edges():,} edges",
            f"cycles: {'; '.join(circles) or 'none'}",
            *(columns(rows) if len(rows) > 1 else ()),
        ]
    )


def livepatch_text(graph: Graph, livepatch: str) -> str:
    """Describe what a livepatch patches, needs and refers to, and what is wrong with it."""
    uses = queries.uses(graph, livepatch)
    functions = [node.replace(",0", "") for node in queries.patched_functions(graph, livepatch)]
    rows = [("symbol", "fate", "owner", "sympos", "gate")]
    for use in uses:
        gates = " ".join(use.gates)
        for owner, sympos in use.owners or (("", None),):
            position = "" if sympos is None else str(sympos)
            rows.append((use.symbol, use.fate, owner, position, gates))
    lines = [
        livepatch,
        f"  patches      {_list(functions or queries.touched(graph, livepatch))}",
        f"  needs        {_list(queries.needed(graph, livepatch))}",
        f"  needs first  {_list(queries.needed_first(graph, livepatch))}",
        f"  references   {_counts(uses)}",
        *(f"    {line}" for line in (columns(rows) if uses else ())),
    ]
    for early in queries.unguarded(graph, livepatch):
        lines.append(
            f"  warning: {early.symbol} of {early.owner} is resolved when {early.gate} loads, "
            f"and {early.gate} does not need {early.owner}"
        )
    return "\n".join(lines)


def object_text(graph: Graph, name: str) -> str:
    """Describe what an object needs, who needs it, and which livepatches depend on it."""
    order = queries.load_order(graph, [name]) if name != "vmlinux" else (name,)
    rebuilds = [rebuild.livepatch for rebuild in queries.rebuilds(graph, name)]
    users = [user for user in queries.users(graph, name) if user not in rebuilds]
    return "\n".join(
        [
            f"{name} ({graph.nodes[name]['kind']})",
            f"  needs        {_list(queries.needed(graph, name))}",
            f"  needed by    {_list(users)}",
            f"  load order   {_list(order)}",
            f"  livepatches  {_list(rebuilds)}",
        ]
    )


def rebuild_text(graph: Graph, name: str) -> str:
    """List the livepatches that must be built again when an object changes, and why."""
    rebuilds = queries.rebuilds(graph, name)
    if not rebuilds:
        return f"No livepatch must be built again when {name} changes."
    lines = [f"When {name} changes, build again:"]
    for rebuild in rebuilds:
        lines += [f"  {rebuild.livepatch}", *(f"    {reason}" for reason in rebuild.reasons)]
    return "\n".join(lines)


def _counts(uses: Iterable[queries.Use]) -> str:
    fates = [use.fate for use in uses]
    counts = [f"{fates.count(fate)} {fate}" for fate in Fate if fate in fates]
    return ", ".join(counts) or "none"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
