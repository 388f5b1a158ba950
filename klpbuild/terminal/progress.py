"""Show the progress of a job with many parts.

It is a line written over on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: On a terminal the line is written again after this time, in seconds.
_BLINK = 0.1
#: After this time a job on a terminal says that it goes on, in seconds.
_SILENCE = 2.0


class Progress:
    """Callback that shows now and then how many parts of how many are done.

    On a terminal it is one line, elsewhere a line for each tenth.
    """

    def __init__(
        self,
        what: str,
        *,
        least: int = 1,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up; small and quick jobs show nothing (`least`, `patience`).

        :param what: the parts, with what is done to them: ``objects read``.
        :param patience: in seconds.
        """
        self._what = what
        self._least = least
        self._clock = clock
        self._next = clock() + patience
        self._tenth = 0
        self._begun = False

    def __call__(self, done: int, total: int) -> None:
        """Show the numbers, if it is time to."""
        tenth = done * 10 // total
        last = done == total and self._begun
        if total < self._least or (self._clock() < self._next and not last):
            return
        text = f"          {done:,} of {total:,} {self._what}"
        if sys.stdout.isatty():
            self._next = self._clock() + _BLINK
            print(f"\r{text}", end="\n" if done == total else "", flush=True)
        elif tenth != self._tenth:
            print(text, flush=True)
        self._tenth = tenth
        self._begun = True


@contextmanager
def meanwhile(
    act: Callable[[], None], interval: float, first: float | None = None
) -> Iterator[None]:
    """Call a function again and again while the block runs.

    :param interval: seconds between two calls.
    :param first: seconds before the first call; None: as before each other one.
    """
    done = threading.Event()

    def watch() -> None:
        wait = interval if first is None else first
        while not done.wait(wait):
            act()
            wait = interval

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextmanager
def elapsed() -> Iterator[None]:
    """Show on a terminal how many seconds a job has taken, from the second one on.

    The cursor stays at the line's beginning, so that whatever is printed takes its place.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    start = time.monotonic()

    def show() -> None:
        spent = f"          {time.monotonic() - start:.0f} s\r"
        print(spent, end="", file=sys.stderr, flush=True)

    try:
        with meanwhile(show, 1.0, _SILENCE):
            yield
    finally:
        if time.monotonic() - start >= _SILENCE:
            print("\x1b[K", end="", file=sys.stderr, flush=True)
