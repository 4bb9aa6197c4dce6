"""The exception of everything that a user can mend, and how it reads in a message. Needs the standard library alone."""
from typing import Iterable


class SetupError(ValueError):
    """A setting that cannot work, found before work begins; the message names the value and what is allowed."""


def shorten(names: Iterable[object], limit: int = 5) -> str:
    """``'a, b, c and 5 more'``: the first names, and a count of the rest."""
    texts = [str(name) for name in names]
    more = f' and {len(texts) - limit} more' if len(texts) > limit else ''
    return ', '.join(texts[:limit]) + more
