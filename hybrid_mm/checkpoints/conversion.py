"""Released key names to the keys of our backbones."""
import re
from functools import lru_cache
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
import torch

from hybrid_mm.errors import shorten

from .key_maps import KEY_MAPS, KeyMap, Rules


def convert(state_dict: Dict[str, Any], family: str, head: bool = False) -> Dict[str, Any]:
    """Rename the tensors of a released state dict; their values stay as they are, and what it lists twice comes once.

    Args:
        state_dict: released key -> tensor or array, without a wrapping (see `unwrap`).
        family: the released network's family, a key of `KEY_MAPS`.
        head: False: drop the classifier, by name and nothing else, and name the rest as our backbone does.
            True: keep it, with the keys ``backbone.*`` and ``head.fc.*`` of mmpretrain's ImageClassifier.

    Returns:
        Our key -> the same tensor, in the order of the release.

    Raises:
        ValueError: the family is unknown, a key is none of the family's, two keys would get one name, a repeated tensor
            differs from its first listing, or ``head`` is asked for and the release has no classifier.
    """
    state_dict = drop_repeats(state_dict, family)
    names, unknown = rename_keys(state_dict, family, head)
    if unknown:
        raise ValueError(
            f'{len(unknown)} of {len(state_dict)} keys are not of a released {family}: {shorten(unknown, 8)}')
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
    rules = _key_map(family)
    names, unknown = {}, []
    for key in keys:
        name, fc = _apply(rules.backbone, key), _apply(rules.classifier, key)
        if name is not None:
            names[key] = f'backbone.{name}' if head else name
        elif fc is None:
            unknown.append(key)
        elif head:
            names[key] = fc
    first: Dict[str, str] = {}
    for key, name in names.items():
        if name in first:
            raise ValueError(f'the keys {first[name]} and {key} of this {family} would both become {name}')
        first[name] = key
    return names, unknown


def drop_repeats(state_dict: Dict[str, Any], family: str) -> Dict[str, Any]:
    """The state dict without the keys under which this family's release lists a tensor once more.

    Args:
        state_dict: released key -> tensor or array.
        family: a key of `KEY_MAPS`.

    Raises:
        ValueError: the family is unknown, or what stands under both keys of a tensor is not the same.
    """
    first_listing = {key: _apply(_key_map(family).repeats, key) for key in state_dict}
    repeats = {key: first for key, first in first_listing.items() if first in state_dict}
    differing = [f'{key} from {first}' for key, first in repeats.items() if not _same(state_dict[key], state_dict[first])]
    if differing:
        raise ValueError(f'{len(differing)} keys of this {family} repeat others, but their tensors differ: '
                         f'{shorten(differing, 8)}')
    return {key: tensor for key, tensor in state_dict.items() if key not in repeats}


def _key_map(family: str) -> KeyMap:
    if family not in KEY_MAPS:
        raise ValueError(f'family={family!r} is unknown; choose from {", ".join(KEY_MAPS)}')
    return KEY_MAPS[family]


def _apply(rules: Rules, key: str) -> Optional[str]:
    for pattern, replacement in rules:
        match = _compile(pattern).fullmatch(key)
        if match:
            return match.expand(replacement)
    return None


_compile = lru_cache(maxsize=None)(re.compile)  # there are more rules than re itself keeps


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return a.is_meta or torch.equal(a, b)  # on the meta device there are no values
    return np.array_equal(a, b)
