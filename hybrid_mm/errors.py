"""The exception of everything that a user can mend, and how it reads in a message. Needs the standard library alone."""
from typing import Iterable


class SetupError(ValueError):
    """A setting that cannot work, found before work begins; the message names the value and what is allowed."""


def shorten(names: Iterable[object], limit: int = 5) -> str:
    """``'a, b, c and 5 more'``: the first names, and a count of the rest."""
    texts = [str(name) for name in names]
    more = f' and {len(texts) - limit} more' if len(texts) > limit else ''
    return ', '.join(texts[:limit]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; the name of its type if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
