"""The form of a key map, and tables of names that are short enough to read."""
import itertools
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

Rules = Tuple[Tuple[str, str], ...]

_ENTRY = '(?P<entry>weight|bias|running_mean|running_var|num_batches_tracked)'


class KeyMap(NamedTuple):
    """Rules of one family: a regular expression for a whole released key, and what replaces it. The first match counts.

    Attributes:
        backbone: rules to the keys of our backbone.
        classifier: rules to the keys of mmpretrain's ImageClassifier with a LinearClsHead.
        repeats: rules from the keys under which the release lists a tensor once more to the released keys of the same
            tensors. They are dropped.
        baseline: arguments that turn our backbone into the network which the family improves on, if it has such.
        averaged: is the published accuracy that of averaged weights, in files that have them beside the last ones?
        forms: arguments for each form of our backbone that has tensors of its own, that of the release first.
    """
    backbone: Rules
    classifier: Rules
    repeats: Rules = ()
    baseline: Optional[Dict[str, Any]] = None
    averaged: bool = True
    forms: Tuple[Dict[str, Any], ...] = ({}, )


def rules(table: Dict[str, str], released: str = '', ours: str = '') -> Rules:
    """Rules from a table of names.

    In a name ``#`` stands for a number and ``*`` at the end for weight, bias or one of BatchNorm's buffers. Our name takes
    the numbers over from the left, so it may have fewer. ``{a,b}`` in a released name stands for either.

    Args:
        table: released name -> our name.
        released: what stands in front of the released names, ``#`` and all.
        ours: what stands in front of our names.
    """
    return tuple((_pattern(released + theirs), _template(ours + name)) for theirs, name in table.items())


def _pattern(name: str) -> str:
    number = itertools.count()
    pattern = ''
    for part in re.split(r'([#*]|\{.*?\})', name):
        if part == '#':
            pattern += rf'(?P<n{next(number)}>\d+)'
        elif part == '*':
            pattern += _ENTRY
        elif part.startswith('{'):
            pattern += f'(?:{"|".join(map(re.escape, part[1:-1].split(",")))})'
        else:
            pattern += re.escape(part)
    return pattern


def _template(name: str) -> str:
    number = itertools.count()
    return re.sub('[#*]', lambda wildcard: r'\g<entry>' if wildcard[0] == '*' else rf'\g<n{next(number)}>', name)
