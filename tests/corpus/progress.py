"""How far a long run is: a bar on a terminal, a line for each result elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Shows the progress of a number of things; a context manager."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._began = time.monotonic()
        self._running: dict[str, None] = {}
        self._bar: Bar | None = None
        if sys.stdout.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.description}"))
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def started(self, name: str) -> None:
        """Tell that work on something has begun."""
        self._running[name] = None
        self._show()

    def finished(self, name: str, what: str) -> None:
        """Tell what became of something."""
        self._running.pop(name, None)
        self.done += 1
        line = f"{name}: {what}"
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            seconds = time.monotonic() - self._began
            print(f"[{self.done}/{self.total}, {seconds:.0f} s] {line}", flush=True)
        self._show()

    def _show(self) -> None:
        if self._bar:
            running = ", ".join(self._running)
            self._bar.update(self._task, completed=self.done, description=running)
