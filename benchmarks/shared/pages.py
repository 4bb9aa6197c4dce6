"""Tables, and a page whose marked parts are written anew."""
from typing import Any, Dict, Sequence

from hybrid_mm.commands.tables import put

NO_RUNS = 'No run is there yet.'


def fill(text: str, page: str, prefix: str, parts: Dict[str, str]) -> str:
    """The text of a page with its parts, between ``<!-- prefix:name -->`` and its end, in place."""
    for name, part in parts.items():
        text = put(text, f'{prefix}:{name}', part, page)
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """In Markdown; without rows a sentence."""
    if not rows:
        return NO_RUNS
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [head, ['---'] * len(head), *rows])
