"""How far a piece of work is: a bar on a terminal, a line every 5 % elsewhere."""
import time
from datetime import timedelta
from typing import Dict, Iterable, Iterator, Optional, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

T = TypeVar('T')
_LINES = 20  # for the whole, where there is no terminal
_UNKNOWN = 100  # items a line, where nobody knows how many there are


class Bars:
    """A bar for each piece of work, or lines; begin with `start`, end with `stop`.

    Attributes:
        is_terminal: whether there are bars.
    """

    def __init__(self) -> None:
        console = Console()
        self.is_terminal = console.is_terminal
        self._bar = Bar(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
                        TextColumn('{task.fields[status]}'), console=console) if self.is_terminal else None
        self._tasks: Dict[str, int] = {}
        self._done: Dict[str, int] = {}

    def start(self) -> None:
        if self._bar is not None:
            self._bar.start()  # from here on sys.stdout prints above the bars

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str, total: Optional[int], done: int = 0) -> None:
        """Begin a piece of work, or begin it anew; ``total`` is None if nobody knows how many items there are."""
        self.remove(name)
        self._done[name] = done
        if self._bar is not None:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, status='')

    def update(self, name: str, done: int, total: Optional[int], status: str = '') -> None:
        """Say how many items are done; ``status`` stands behind."""
        before, self._done[name] = self._done.get(name, 0), done
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=done, status=status)
        elif not total:
            if done // _UNKNOWN > before // _UNKNOWN:
                print(f'{name} {done}', flush=True)
        elif done * _LINES // total > before * _LINES // total:
            print(f'{name} {done}/{total} ({100 * done // total} %)' + (f', {status}' if status else ''), flush=True)

    def remove(self, name: str) -> None:
        """Take the bar of a piece of work away."""
        if self._bar is not None and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))


class Progress:
    """How far one piece of work is, as a context manager.

    Args:
        name: of the items, such as ``'pictures'``.
        total: number of items, None if nobody knows.
    """

    def __init__(self, name: str, total: Optional[int]) -> None:
        self.name, self.total, self.done = name, total, 0
        self._bars = Bars()

    def __enter__(self) -> 'Progress':
        self._start = time.monotonic()
        self._bars.start()
        self._bars.begin(self.name, self.total)
        return self

    def __exit__(self, *error) -> None:
        self._bars.stop()

    def advance(self, number: int = 1) -> None:
        """Count items that are done."""
        self.done += number
        left = (time.monotonic() - self._start) / self.done * max(0, (self.total or 0) - self.done)
        self._bars.update(self.name, self.done, self.total, f'{timedelta(seconds=round(left))} left' if self.total else '')

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted when the next one is asked for."""
        for item in items:
            yield item
            self.advance()
