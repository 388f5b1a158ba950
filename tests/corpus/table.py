"""The results as tables, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from klpbuild.names import VMLINUX
from tests.corpus.reasons import meaning_of
from tests.corpus.results import ABSENT, LOADED, Outcome, Result


def table(results: Sequence[Result]) -> str:
    """All tables: what became of the patches, of the modules, and each one not built."""
    parts = [_summary(results), _nothing(results), _loaded(results), _refused(results)]
    parts.append(_failed(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def changes_something(result: Result) -> bool:
    """Whether a patch compiles and changes at least one function that can be patched."""
    return bool(result.functions)


def _summary(results: Sequence[Result]) -> str:
    wanted = [result for result in results if changes_something(result)]
    idle = len(results) - len(wanted)
    loaded = [r for r in wanted if r.loading is not None and r.loading.outcome == LOADED]
    rows = [
        ("patches", len(results), ""),
        ("change no function that could be patched", idle, ""),
        ("change at least one", len(wanted), "100 %"),
    ]
    for outcome in Outcome:
        count = sum(result.outcome is outcome for result in wanted)
        rows.append((f"- {outcome}", count, _share(count, len(wanted))))
    rows.append(("- built and loaded", len(loaded), _share(len(loaded), len(wanted))))
    return _rows(("", "patches", "share"), rows)


def _nothing(results: Sequence[Result]) -> str:
    counts = Counter(
        result.kind
        for result in results
        if result.outcome is Outcome.REFUSED and not changes_something(result)
    )
    rows = [(kind, count, meaning_of(kind)) for kind, count in counts.most_common()]
    return "### Nothing to patch\n\n" + _rows(("kind", "patches", "meaning"), rows)


def _loaded(results: Sequence[Result]) -> str:
    built = [result for result in results if result.outcome is Outcome.BUILT]
    counts = Counter(result.loading.outcome if result.loading else "not tried" for result in built)
    rows = [(name, count, _share(count, len(built))) for name, count in counts.most_common()]
    absent = [r for r in built if r.loading and _absent(r)]
    text = "### Built modules in QEMU\n\n" + _rows(("outcome", "modules", "share"), rows)
    again = [r for r in built if r.loading and _is_loaded_again(r)]
    text += (
        f"\n\nOf {sum(any(o != VMLINUX for o in r.objects) for r in built)} livepatches of"
        f" modules, {len(again)} had their module unloaded and loaded again while they were"
        " enabled; the others' modules stay once they are loaded, or could not be loaded."
    )
    if absent:
        names = sorted({name for result in absent for name in _absent(result)})
        text += (
            f"\n\n{len(absent)} of them were loaded without the module that they patch, which"
            f" the guest cannot load for want of its hardware: {', '.join(names)}."
        )
    bad = [r for r in built if r.loading and r.loading.outcome != LOADED]
    for result in bad:
        assert result.loading is not None
        text += f"\n\n`{result.patch}`: {result.loading.outcome}\n\n```\n{result.loading.said}\n```"
    return text


def _is_loaded_again(result: Result) -> bool:
    assert result.loading is not None
    return any(what.endswith("loaded again") for what in result.loading.targets.values())


def _absent(result: Result) -> list[str]:
    assert result.loading is not None
    return [name for name, what in result.loading.targets.items() if what.startswith(ABSENT)]


def _refused(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        if result.outcome is Outcome.REFUSED and changes_something(result):
            texts = [f"{_symbol(r.where)}{r.what}. {r.why}" for r in result.reasons]
            kinds = dict.fromkeys(reason.kind for reason in result.reasons)
            rows.append((f"`{result.patch}`", ", ".join(kinds), "<br>".join(texts)))
    if not rows:
        return ""
    return "### Refused\n\n" + _rows(("patch", "kind", "what klpbuild says"), rows)


def _symbol(where: str) -> str:
    """The function or variable of ``source:object:symbol``."""
    parts = where.split(":")
    return f"{parts[2]}: " if len(parts) == 3 else ""


def _failed(results: Sequence[Result]) -> str:
    found = [result for result in results if result.outcome is Outcome.FAILED]
    texts = [f"`{r.patch}`\n\n```\n{r.traceback.strip()}\n```" for r in found]
    return "\n\n".join(["### Failed", *texts]) if found else ""


def _share(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} %" if whole else ""


def _rows(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", "<br>")
