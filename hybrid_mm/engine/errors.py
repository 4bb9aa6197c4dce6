"""The exception of everything that a user can mend, and how it reads in a message."""
from typing import Sequence


class SetupError(ValueError):
    """A setting that cannot work, found before training; the message names the value and what is allowed."""


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(map(str, names[:limit])) + more
