"""A bar on a terminal; a line every 5 % elsewhere."""
import time
from datetime import timedelta
from typing import Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_LINES = 20  # for the whole, where there is no terminal
_UNKNOWN = 100  # items a line, where nobody knows how many there are


class Progress:
    """How far a piece of work is, as a context manager.

    Args:
        name: of the items, such as ``'pictures'``.
        total: number of items, None if nobody knows.
    """

    def __init__(self, name: str, total: Optional[int]) -> None:
        self.name = name
        self.total = total
        self.done = 0
        console = Console()
        self._bar = Bar(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                        console=console) if console.is_terminal else None

    def __enter__(self) -> 'Progress':
        self._start = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total)
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, number: int = 1) -> None:
        """Count items that are done."""
        before, self.done = self.done, self.done + number
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif not self.total:
            if self.done // _UNKNOWN > before // _UNKNOWN:
                print(f'{self.name} {self.done}', flush=True)
        elif self.done * _LINES // self.total > before * _LINES // self.total:
            left = (time.monotonic() - self._start) / self.done * max(0, self.total - self.done)
            print(f'{self.name} {self.done}/{self.total} ({100 * self.done // self.total} %), '
                  f'{timedelta(seconds=round(left))} left', flush=True)
