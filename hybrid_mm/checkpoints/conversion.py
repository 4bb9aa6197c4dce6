"""Released key names to the keys of our backbones."""
import re
from typing import Any, Dict, Iterable, List, Optional, Tuple

from .key_maps import KEY_MAPS, Rules


def convert(state_dict: Dict[str, Any], family: str, head: bool = False) -> Dict[str, Any]:
    """Rename the tensors of a released state dict; their values stay as they are.

    Args:
        state_dict: released key -> tensor or array, without a wrapping (see `unwrap`).
        family: the released network's family, a key of `KEY_MAPS`.
        head: False: drop the classifier, by name and nothing else, and name the rest as our backbone does.
            True: keep it, with the keys ``backbone.*`` and ``head.fc.*`` of mmpretrain's ImageClassifier.

    Returns:
        Our key -> the same tensor, in the order of the release.

    Raises:
        ValueError: the family is unknown, a key is none of the family's, two keys would get one name, or ``head`` is
            asked for and the release has no classifier.
    """
    names, unknown = rename_keys(state_dict, family, head)
    if unknown:
        raise ValueError(
            f'{len(unknown)} of {len(state_dict)} keys are not of a released {family}: {list_keys(unknown)}')
    if head and not any(name.startswith('head.') for name in names.values()):
        raise ValueError(f'head=True, but this state dict of {family} has no classifier')
    return {name: state_dict[key] for key, name in names.items()}


def rename_keys(keys: Iterable[str], family: str, head: bool = False) -> Tuple[Dict[str, str], List[str]]:
    """Our name of each released key, and the keys that the family does not have.

    Args:
        keys: released keys.
        family: a key of `KEY_MAPS`.
        head: see `convert`.

    Raises:
        ValueError: the family is unknown, or two keys would get one name.
    """
    if family not in KEY_MAPS:
        raise ValueError(f'family={family!r} is unknown; choose from {", ".join(KEY_MAPS)}')
    rules = KEY_MAPS[family]
    names, unknown = {}, []
    for key in keys:
        name, fc = _apply(rules.backbone, key), _apply(rules.classifier, key)
        if name is not None:
            names[key] = f'backbone.{name}' if head else name
        elif fc is None:
            unknown.append(key)
        elif head:
            names[key] = fc
    first = {}
    for key, name in names.items():
        if name in first:
            raise ValueError(f'the keys {first[name]} and {key} of this {family} would both become {name}')
        first[name] = key
    return names, unknown


def list_keys(keys: Iterable[str], limit: int = 8) -> str:
    """``'a, b, c and 5 more'``: the first ``limit`` keys and a count of the rest."""
    keys = list(keys)
    more = f' and {len(keys) - limit} more' if len(keys) > limit else ''
    return ', '.join(keys[:limit]) + more


def _apply(rules: Rules, key: str) -> Optional[str]:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None
